#pragma once

#include "cuda/barrier.cuh"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/config.h"

namespace minference::kernels::cuda::sm90 {

// Returns x, of which the compiler keeps nothing from one step to the next: what it would keep lies in local memory.
template <class X>
__device__ __forceinline__ X recomputed(X x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Where a consumer warp stands: its 16 rows of a half of every item, and the item in hand.
template <class Config>
struct ConsumerWarp {
  SharedMemory<Config>& shared;
  const Plan& plan;
  // 0: lower. A vote, so that the compiler knows that every address made from it is uniform.
  int half = __any_sync(minference::cuda::kAllLanes, threadIdx.x >= 2 * kWarpgroup) ? 1 : 0;
  int item_use = 0;  // of the ring of items, modulo its period

  // Recomputed where they are used, since registers are short.
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  // Of the item's rows.
  __device__ __forceinline__ int first_row() const {
    return half * kHalfRows + static_cast<int>(threadIdx.x / 32 % kHalfWarps) * kWarpRows;
  }
  // Shared address of the lane's row of queries, for load_matrices and store_matrices.
  __device__ __forceinline__ std::uint32_t query_row() const {
    return minference::cuda::shared_address(shared.query) + (first_row() + lane() % 16) * kPanelRowBytes;
  }

  __device__ __forceinline__ const Item& item() const { return shared.item[item_use % kItemBuffers]; }
  __device__ __forceinline__ void wait_for_item() const {
    const RingPosition<kItemBuffers> at(item_use);
    shared.item_full[at.slot].wait(at.parity);
  }
  __device__ __forceinline__ void next_item() { item_use = (item_use + 1) % (2 * kItemBuffers); }

  // The key position of this warp's first row.
  __device__ __forceinline__ int position() const {
    return item().first_row + first_row() + plan.kv_len - plan.q_len;
  }
};

}  // namespace minference::kernels::cuda::sm90
