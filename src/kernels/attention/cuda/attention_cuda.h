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

enum class AttentionKernel : std::int32_t {
  best = 0,  // the first of those below that serves the call on this device
  sm90 = 1,  // Hopper; head_dim 64, 96, 128 or 256; no dense rows; tensors that suit the copy engine
  sm80 = 2,  // compute capability 8.0 and later; everything
};

// The contract of kernels/attention/attention.h for one sequence in device memory, q_len <= kv_len, float16 or
// bfloat16, head_dim a multiple of 8 up to 256. Inputs are copied first where their rows do not begin on 16-byte
// boundaries. lse as there.
struct DeviceAttentionCall {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  base::InputHeads value;  // [num_kv_heads, kv_len, head_dim]
  base::OutputHeads out;   // [num_query_heads, q_len, head_dim]
  base::RowsView lse;      // [num_query_heads, q_len]; data == nullptr: not wanted
  float softmax_scale = 1.0f;
  DeviceIndex index;
  bool causal = true;  // false: no head of form `relative`
  AttentionKernel kernel = AttentionKernel::best;
};

// Bytes of device memory that attention() needs for this call; depends on shapes, strides, capacities and the
// alignment of data pointers.
std::size_t attention_workspace_bytes(const DeviceAttentionCall& call);

// Asynchronous on `stream`, without host synchronisation, so it can be captured in a CUDA graph. `workspace`
// is aligned to 256 bytes, and no other call may use it until this one is complete. Throws base::Error for an
// argument that breaks a rule, before anything is written.
void attention(const DeviceAttentionCall& call, void* workspace, std::size_t workspace_bytes, Stream stream);

}  // namespace minference::kernels::cuda
