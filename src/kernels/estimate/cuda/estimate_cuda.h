#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/tensor.h"
#include "cuda/stream.h"

namespace minference::kernels::cuda {

inline constexpr std::int64_t kMaxEstimatedHeads = 128;  // what a launch takes as arguments

// The contract of kernels/estimate/estimate.h for one sequence in device memory, for some of its heads.
// float16 or bfloat16, head_dim a multiple of 8 up to 256; data pointers, head and row strides are multiples of 16
// bytes.
// Both outputs are [num_query_heads, kv_len] f32; rows of other heads stay as they are.
struct DeviceEstimateCall {
  base::InputHeads query;      // [num_query_heads, q_len, head_dim]; only the last 64 rows are read
  base::InputHeads key;        // [num_kv_heads, kv_len, head_dim]
  float softmax_scale = 1.0f;  // above 0
  // Host memory: the query heads to estimate, ascending; at most kMaxEstimatedHeads.
  std::span<const std::int32_t> heads;
  float* column_sums = nullptr;
  float* diagonal_sums = nullptr;
  std::int64_t head_stride = 0;  // elements between heads of both outputs, >= kv_len
};

// Bytes of device memory that estimate() needs; a function of shapes.
std::size_t estimate_workspace_bytes(const DeviceEstimateCall& call);

// Asynchronous on `stream`, without host synchronisation. `workspace` is aligned to 256 bytes. The same call
// gives the same bits on every device.
void estimate(const DeviceEstimateCall& call, void* workspace, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
