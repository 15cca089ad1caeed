#pragma once

#include <cmath>

#include "cuda/math.cuh"

namespace minference::kernels::cuda::sm80 {

// What four neighbouring lanes hold of a row.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(minference::cuda::kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(minference::cuda::kAllLanes, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(minference::cuda::kAllLanes, x, 1);
  return x + __shfl_xor_sync(minference::cuda::kAllLanes, x, 2);
}

// The running softmax of one row, of which the lane has a part of each tile's scores.
struct RowSoftmax {
  float maximum = -INFINITY;
  float sum = 0.0f;  // of the lane's part

  // Scores times scale_log2 minus this are exponents of 2. A row that has seen no key has nothing to shift.
  __device__ __forceinline__ float shift(float scale_log2) const {
    return maximum == -INFINITY ? 0.0f : maximum * scale_log2;
  }

  // Takes the maximum of further scores in; returns by what earlier exponentials shrink.
  __device__ __forceinline__ float raise(float highest, float scale_log2) {
    const float before = maximum * scale_log2;
    maximum = fmaxf(maximum, highest);
    const float factor = minference::cuda::exp2_approx(before - shift(scale_log2));
    sum *= factor;
    return factor;
  }
};

}  // namespace minference::kernels::cuda::sm80
