#include "prefill/gate.h"

#include "kernels/estimate/estimate.h"
#include "sparse/sparse_index.h"

namespace minference::prefill {

// Two passes of 64 query rows over every key cost about 128 * kv_len pairs; a call whose dense attention has
// fewer than four times as many cannot win enough. Chunks below 128 rows always run densely
// (docs/algorithm.md, "Chunks").
bool runs_densely(std::int64_t q_len, std::int64_t kv_len) {
  constexpr std::int64_t kMinRows = 128, kDenseOverEstimate = 4;
  if (q_len < kMinRows) return true;
  return sparse::count_all_pairs(q_len, kv_len, true) <
         kDenseOverEstimate * 2 * kernels::kEstimateRows * kv_len;
}

}  // namespace minference::prefill
