#pragma once

#include <numbers>

#include "cuda/error.h"
#include "cuda/tensor_map.h"
#include "kernels/attention/cuda/sm90/kernel.cuh"
#include "kernels/attention/cuda/sm90/launch.h"

namespace minference::kernels::cuda::sm90 {

template <class Config>
void launch_kernel(const Arguments& arguments, Stream stream) {
  using minference::cuda::check;
  constexpr int kSharedBytes = sizeof(SharedMemory<Config>) + 1024;
  static_assert(kSharedBytes <= 227 * 1024, "a CTA of sm_90 has 227 KB of shared memory");
  check(cudaFuncSetAttribute(attention_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kSharedBytes),
        "reserving shared memory");
  // Starts while the plan is still being made, and waits for it inside.
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(arguments.plan.schedule.concurrent));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, attention_kernel<Config>, arguments), "launching attention");
}

template <class Element, int HeadDim>
void launch_attention_kernel(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  using minference::cuda::tensor_map;
  const auto gathered = [&](const void* data) {
    base::InputHeads view = call.key;
    view.data = data;
    view.heads = call.query.heads;
    view.rows = plan.gathered_capacity;
    view.row_stride = call.key.dim;
    view.head_stride = view.rows * view.row_stride;
    return view;
  };
  Arguments arguments;
  arguments.inputs.query = tensor_map(call.query, kItemRows, "query");
  arguments.inputs.key = tensor_map(call.key, kTileKeys, "key");
  arguments.inputs.value = tensor_map(call.value, kTileKeys, "value");
  if (plan.gathered_capacity > 0) {
    arguments.inputs.gathered_key = tensor_map(gathered(plan.gathered_key), kTileKeys, "gathered_key");
    arguments.inputs.gathered_value = tensor_map(gathered(plan.gathered_value), kTileKeys, "gathered_value");
  }
  const base::InputHeads out = {call.out.data, call.out.dtype,       call.out.heads,     call.out.rows,
                                call.out.dim,  call.out.head_stride, call.out.row_stride};
  arguments.out = tensor_map(out, kWarpRows, "out");
  arguments.plan = plan;
  arguments.lse = call.lse;
  arguments.scale_log2 = call.softmax_scale * std::numbers::log2e_v<float>;
  if constexpr (tiles_a_step(HeadDim) == 2) {
    if (call.index.heads == nullptr || plan.not_squares != nullptr)
      launch_kernel<Config<Element, HeadDim, true>>(arguments, stream);
    if (call.index.heads == nullptr) return;
  }
  launch_kernel<Config<Element, HeadDim, false>>(arguments, stream);
}

}  // namespace minference::kernels::cuda::sm90
