#pragma once

#include "base/arena.h"
#include "kernels/attention/cuda/attention_cuda.h"

namespace minference::kernels::cuda::sm80 {

struct Arguments;

bool serves_head_dim(std::int64_t head_dim);  // multiples of 8 up to 256
std::size_t workspace_bytes(const DeviceAttentionCall& call);
void launch_attention(const DeviceAttentionCall& call, base::Arena& workspace, Stream stream);

// head_dim up to HeadDim. One explicit instantiation a file, so that they compile side by side.
template <class Element, int HeadDim>
void launch_attention_kernels(const DeviceAttentionCall& call, Arguments& arguments, Stream stream);

}  // namespace minference::kernels::cuda::sm80
