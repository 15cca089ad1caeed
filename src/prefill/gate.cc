#include "prefill/gate.h"

#include "sparse/sparse_index.h"

namespace minference::prefill {

// A call whose dense attention costs less than three times its estimation cannot win enough. Chunks below 128 rows
// always run densely (docs/algorithm.md, "Chunks").
bool runs_densely(std::int64_t q_len, std::int64_t kv_len, std::int64_t estimate_rows) {
  constexpr std::int64_t kMinRows = 128, kDenseOverEstimate = 3;
  if (q_len < kMinRows) return true;
  return sparse::count_all_pairs(q_len, kv_len, true) < kDenseOverEstimate * estimate_rows * kv_len;
}

}  // namespace minference::prefill
