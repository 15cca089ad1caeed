#pragma once

#include "cuda/barrier.cuh"
#include "kernels/attention/cuda/sm80/config.h"

namespace minference::kernels::cuda::sm80 {

// Where a thread stands in its CTA, and which of an item's rows it holds.
template <class Config>
struct WarpPlace {
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int team() { return warp() / Config::kTeamWarps; }
  static __device__ __forceinline__ int team_warp() { return warp() % Config::kTeamWarps; }
  static __device__ __forceinline__ int warp_row() { return team_warp() * Config::kWarpRows; }

  // The first of the two rows, eight apart, that mma gives this lane of the warp's m-th sixteen.
  static __device__ __forceinline__ int mma_row(int m) { return warp_row() + m * kMmaRows + lane() / 4; }

  static __device__ __forceinline__ void team_barrier() {
    minference::cuda::named_barrier_sync<Config::kTeamThreads>(1 + team());
  }
};

}  // namespace minference::kernels::cuda::sm80
