#pragma once

#include "cuda/error.h"
#include "kernels/attention/cuda/sm80/kernel.cuh"
#include "kernels/attention/cuda/sm80/launch.h"

namespace minference::kernels::cuda::sm80 {

template <class Config>
void launch_kernel(const DeviceAttentionCall& call, Arguments& arguments, Stream stream) {
  using minference::cuda::check;
  constexpr int kSharedBytes = sizeof(SharedMemory<Config>);
  static_assert(kSharedBytes <= 99 * 1024, "what a CTA of compute capability 8.6, 8.9 or 12.0 may have");
  static_assert(Config::kHeadDim != 128 || kSharedBytes <= 81 * 1024, "two CTAs on one of 8.0");
  const auto q_len = static_cast<std::int32_t>(call.query.rows);
  arguments.schedule = Schedule::of(call, base::divide_up(q_len, Config::kItemRows));
  if (call.index.last_dense_rows != nullptr && !Config::kDense) ++arguments.schedule.items_per_head;
  check(cudaFuncSetAttribute(attention_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kSharedBytes),
        "reserving shared memory");
  attention_kernel<Config><<<arguments.schedule.num_items(), kThreads, kSharedBytes, stream>>>(arguments);
  check(cudaGetLastError(), "launching attention");
}

template <class Element, int HeadDim>
void launch_attention_kernels(const DeviceAttentionCall& call, Arguments& arguments, Stream stream) {
  if constexpr (HeadDim <= 128) launch_kernel<Config<Element, HeadDim, true>>(call, arguments, stream);
  if (HeadDim > 128 || call.index.heads != nullptr)
    launch_kernel<Config<Element, HeadDim, false>>(call, arguments, stream);
}

}  // namespace minference::kernels::cuda::sm80
