#pragma once

#include "cuda/math.cuh"

namespace minference::kernels::cuda {

// warp_sums.h's words on the device: a value is this lane's float.
struct DeviceWords {
  using Value = float;

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ __forceinline__ float fill(float x) { return x; }
  static __device__ __forceinline__ float maximum(float a, float b) { return fmaxf(a, b); }
  static __device__ __forceinline__ float exp2(float x) { return minference::cuda::exp2_approx(x); }
  static __device__ __forceinline__ float scaled(float a, float b, float c) { return fmaf(a, b, -c); }

  template <class Place>
  static __device__ __forceinline__ float select(Place place, float a, float b) {
    return place(lane()) ? a : b;
  }
  template <class Place>
  static __device__ __forceinline__ float shuffle(float x, Place place) {
    return __shfl_sync(minference::cuda::kAllLanes, x, place(lane()));
  }
  template <class Test>
  static __device__ __forceinline__ bool any(Test test, float x) {
    return __any_sync(minference::cuda::kAllLanes, test(x)) != 0;
  }
};

}  // namespace minference::kernels::cuda
