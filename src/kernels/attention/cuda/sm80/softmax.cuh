#pragma once

#include <cmath>

#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/products.cuh"

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

// The running softmax of the rows of which a lane holds scores.
template <class Config>
struct Softmax {
  RowSoftmax rows[Config::kRowTiles][2];

  // scores -> exponentials, relative to the highest score so far; the output follows when that has moved.
  __device__ __forceinline__ void weigh(TileScores<Config>& scores, float scale_log2,
                                        Products<Config>& products) {
    constexpr int kKeyOctets = kTileKeys / 8;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float factor[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float highest = scores[m][0][2 * r];
#pragma unroll
        for (int n = 0; n < kKeyOctets; ++n)
          highest = fmaxf(highest, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
        RowSoftmax& row = rows[m][r];
        factor[r] = row.raise(quad_max(highest), scale_log2);
        const float shift = row.shift(scale_log2);
#pragma unroll
        for (int n = 0; n < kKeyOctets; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[m][n][2 * r + e];
            score = minference::cuda::exp2_approx(fmaf(score, scale_log2, -shift));
            row.sum += score;
          }
        }
      }
      if (__any_sync(minference::cuda::kAllLanes, factor[0] != 1.0f || factor[1] != 1.0f)) {
        products.scale_output(m, factor);
      }
    }
  }
};

}  // namespace minference::kernels::cuda::sm80
