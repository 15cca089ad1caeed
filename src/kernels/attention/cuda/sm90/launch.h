#pragma once

#include "kernels/attention/cuda/attention_cuda.h"
#include "kernels/attention/cuda/plan.h"

namespace minference::kernels::cuda::sm90 {

// Runs the kernel for call.query.dtype and head_dim over a prepared plan, on every multiprocessor.
void launch_attention(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

// One explicit instantiation a file, so that they compile side by side.
template <class Element, int HeadDim>
void launch_attention_kernel(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

}  // namespace minference::kernels::cuda::sm90
