#pragma once

#include "base/arena.h"
#include "kernels/attention/cuda/attention_cuda.h"

namespace minference::kernels::cuda::sm90 {

struct Plan;

bool serves_head_dim(std::int64_t head_dim);            // 64, 96, 128 or 256
bool can_plan_blocks(const DeviceAttentionCall& call);  // 32-bit positions reach every list
std::size_t workspace_bytes(const DeviceAttentionCall& call);

// Plans the call and runs the kernel for its dtype and head_dim on every multiprocessor.
void launch_attention(const DeviceAttentionCall& call, base::Arena& workspace, Stream stream);

// One explicit instantiation a file, so that they compile side by side.
template <class Element, int HeadDim>
void launch_attention_kernel(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

}  // namespace minference::kernels::cuda::sm90
