#pragma once

#include <span>

#include "base/executor.h"
#include "base/isa.h"
#include "base/tensor.h"

namespace minference::kernels {

inline constexpr std::int64_t kEstimateRows = 64;  // last_q of MInference 1.0 (arXiv 2407.02490, Algorithm 2)

// Vertical-slash estimation of one sequence, all heads (causal only). With L = min(64, q_len), A[i, k] the softmax over
// keys k <= p_i of softmax_scale * <query row i, key k> for the last L rows (p_i their positions):
//
//   column_sums[h, k]   = sum_i A[i, k]            k in [0, kv_len)
//   diagonal_sums[h, o] = sum_i A[i, p_i - o]      o in [0, kv_len), terms with p_i < o absent
//
// Both tensors are [num_query_heads, kv_len] f32, contiguous within a head, and fully overwritten. head_dim is
// a multiple of 8.
struct EstimateCall {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]; only the last L rows are read
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  float softmax_scale = 1.0f;
  float* column_sums = nullptr;
  float* diagonal_sums = nullptr;
  std::int64_t head_stride = 0;  // elements between heads of both outputs, >= kv_len
};

struct EstimateKernel {
  const char* name;
  base::Isa required;
  bool (*supports)(base::DType dtype, std::int64_t head_dim);
  void (*run)(const EstimateCall& call, base::Executor& executor);
};

std::span<const EstimateKernel> estimate_kernels();
const EstimateKernel& select_estimate(base::Isa isa, base::DType dtype, std::int64_t head_dim);

}  // namespace minference::kernels
