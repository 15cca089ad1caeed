#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cuda/stream.h"
#include "sparse/device_index.h"

namespace minference::kernels::cuda {

using minference::cuda::Stream;
using sparse::DeviceHead;
using sparse::DeviceIndex;

// The contract of kernels/attention/attention.h for one sequence in device memory, causal, q_len <= kv_len.
// Data pointers are aligned to 16 bytes, and head and row strides are multiples of 16 bytes (the copy
// engine's rule). lse as there.
struct DeviceAttentionCall {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  base::InputHeads value;  // [num_kv_heads, kv_len, head_dim]
  base::OutputHeads out;   // [num_query_heads, q_len, head_dim]
  base::RowsView lse;      // [num_query_heads, q_len]; data == nullptr: not wanted
  float softmax_scale = 1.0f;
  DeviceIndex index;
};

// Whether this device has a kernel: sm_90, float16 or bfloat16, head_dim 64, 96 or 128.
bool supports_attention(base::DType dtype, std::int64_t head_dim);

// Bytes of device memory that attention() needs for this call; depends on shapes and capacities only.
std::size_t attention_workspace_bytes(const DeviceAttentionCall& call);

// Asynchronous on `stream`, without host synchronisation, so it can be captured in a CUDA graph. `workspace`
// is aligned to 256 bytes, and no other call may use it until this one is complete. Throws base::Error for an
// argument that breaks a rule, before anything is written.
void attention(const DeviceAttentionCall& call, void* workspace, std::size_t workspace_bytes, Stream stream);

}  // namespace minference::kernels::cuda
