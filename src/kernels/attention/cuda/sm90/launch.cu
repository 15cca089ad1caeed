#include "kernels/attention/cuda/sm90/launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace minference::kernels::cuda::sm90 {

namespace {

template <class Element>
void launch_for_head_dim(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  switch (call.query.dim) {
    case 64:
      return launch_attention_kernel<Element, 64>(call, plan, stream);
    case 96:
      return launch_attention_kernel<Element, 96>(call, plan, stream);
    default:
      return launch_attention_kernel<Element, 128>(call, plan, stream);
  }
}

}  // namespace

void launch_attention(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  if (call.query.dtype == base::DType::bf16) {
    launch_for_head_dim<__nv_bfloat16>(call, plan, stream);
  } else {
    launch_for_head_dim<__half>(call, plan, stream);
  }
}

}  // namespace minference::kernels::cuda::sm90
