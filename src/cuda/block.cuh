#pragma once

#include "cuda/math.cuh"

// Sums over the threads of a CTA in a fixed order, so that floating-point ones have the same bits every time.
namespace minference::cuda {

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

// The sum of the values of all `Threads` threads, in each of them. Synchronises the CTA.
template <int Threads, class T>
__device__ __forceinline__ T block_sum(T x) {
  constexpr int kWarps = Threads / 32;
  __shared__ T sums[kWarps];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = sums[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += sums[w];
  return sum;
}

}  // namespace minference::cuda
