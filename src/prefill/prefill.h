#pragma once

#include <cstdint>
#include <span>

#include "base/executor.h"
#include "base/isa.h"
#include "base/tensor.h"
#include "kernels/attention/attention.h"
#include "prefill/gate.h"
#include "sparse/head_pattern.h"
#include "sparse/sparse_index.h"

namespace minference::prefill {

// What to compute for one layer of one sequence. Positions are bottom-right aligned
// (sparse::position_of_row).
struct LayerPlan {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  float softmax_scale = 1.0f;
  bool causal = true;
  std::span<const sparse::HeadPattern> heads;  // [num_query_heads]
  Fallback fallback = Fallback::automatic;
  bool share_index = false;  // query heads of a KV head share one (sparse/shared_heads.h)
};

// Filled where given, in part also by calls that throw; seconds are added to, so that calls over several sequences sum up.
struct Statistics {
  double seconds_estimate = 0, seconds_select = 0, seconds_index = 0, seconds_attend = 0;
  std::int64_t pairs = 0, all_pairs = 0;
  std::span<double> head_density;         // [num_query_heads] or empty
  std::span<std::int32_t> head_fallback;  // [num_query_heads] or empty
};

// What attention costs one head with `kernel`, in units of one full tile: what the dense fallback compares.
double cost_of(const sparse::SparseIndex& index, std::int64_t head, const kernels::AttentionKernel& kernel);

// estimate -> select -> index for every head.
sparse::SparseIndex build_index(const LayerPlan& plan, base::Isa isa, base::Executor& executor,
                                Statistics& statistics);

// build_index, then attention over it. `value` is like key, `out` like query; every row of out (and lse) is
// written.
void prefill_layer(const LayerPlan& plan, const base::InputHeads& value, const base::OutputHeads& out,
                   const base::RowsView& lse, base::Isa isa, base::Executor& executor,
                   Statistics& statistics);

}  // namespace minference::prefill
