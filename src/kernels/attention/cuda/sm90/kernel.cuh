#pragma once

#include "cuda/wgmma.cuh"
#include "kernels/attention/cuda/sm90/consumer.cuh"
#include "kernels/attention/cuda/sm90/producer.cuh"

// Attention over lists of 64-key tiles and gathered columns on Hopper: persistent CTAs of one producer
// warpgroup and a consumer warpgroup for each half of an item's 128 rows. docs/kernels/attention-sm90.md has
// the schedule.
namespace minference::kernels::cuda::sm90 {

struct Arguments {
  InputMaps inputs;
  CUtensorMap out;
  Plan plan;
  base::RowsView lse;
  float scale_log2;  // softmax_scale * log2(e)
};

template <class Config>
__device__ __forceinline__ void init_barriers(SharedMemory<Config>& shared) {
  shared.query_empty.init(kConsumerWarps);
  for (int i = 0; i < kItemBuffers; ++i) {
    shared.item_full[i].init(1);
    shared.item_empty[i].init(1 + kColumnMaskWarps);  // values and masks; consumers are done before
  }
  for (int i = 0; i < Config::kKeySlots; ++i) {
    shared.key_full[i].init(1);
    shared.key_empty[i].init(kConsumerWarps);
  }
  for (int i = 0; i < Config::kValueSlots; ++i) {
    shared.value_full[i].init(1);
    shared.value_empty[i].init(kConsumerWarps);
  }
  for (int i = 0; i < kColumnMasks; ++i) {
    shared.mask_full[i].init(kColumnMaskWriters);
    shared.mask_empty[i].init(kConsumerWarps * kColumnMaskReaders);
  }
  minference::cuda::fence_barrier_init();
  minference::cuda::fence_async_shared();
}

template <class Config>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ std::uint8_t unaligned[];
  auto& shared = *reinterpret_cast<SharedMemory<Config>*>(
      (reinterpret_cast<std::uintptr_t>(unaligned) + 1023) & ~std::uintptr_t{1023});
  const int warpgroup = minference::cuda::warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  cudaGridDependencySynchronize();  // for the plan, and for whatever the call's tensors come from
  if (const std::int32_t* not_squares = arguments.plan.not_squares; not_squares != nullptr) {
    if ((*not_squares == 0) != Config::kPairs) return;
  }
  if (warpgroup == 0) {
    minference::cuda::registers_shrink_to<kProducerRegisters>();
    const int warp = minference::cuda::warp_uniform(static_cast<int>(threadIdx.x) / 32);
    if (warp == 0 && minference::cuda::elect_lane())
      produce_items_and_keys<Config>(shared, arguments.inputs, arguments.plan);
    if (warp == 1 && minference::cuda::elect_lane())
      produce_values<Config>(shared, arguments.inputs, arguments.plan);
    if (warp >= 2) produce_column_masks<Config>(shared, arguments.plan, warp - 2);
  } else {
    minference::cuda::registers_grow_to<kConsumerRegisters>();
    Consumer<Config>(shared, arguments.plan, arguments.out, arguments.scale_log2, arguments.lse).run();
  }
}

}  // namespace minference::kernels::cuda::sm90
