#pragma once

#include "cuda/math.cuh"

// The softmax of a step's scores: 64 rows by one or two tiles of 64 keys, held by a warpgroup in wgmma's
// layout. A thread has rows r and r + 8, and of tile t the scores[32 t + 4 j + e]: row r + 8 (e / 2), key 8 j
// + first + e % 2.
//
// There is no running maximum. An item's first step fixes a reference a row; later steps take exponentials
// relative to it. In bf16 and f32 any reference within 2^60 of the true maximum is as good as the maximum, in
// f16 within 2^15; a row sum beyond that makes the warp take the step again with the maximum.
namespace minference::kernels::cuda::sm90 {

inline constexpr float kNoKeySeen =
    -1e30f;  // reference of a row that has seen no key: its first key is out of range

template <class T>
inline constexpr float kLargestSum = 0x1p60f;
template <>
inline constexpr float kLargestSum<__half> = 0x1p15f;

struct Softmax {
  float shift[2];  // of the thread's two rows: minus the reference, times softmax_scale * log2(e)
  float sum[2];    // this thread's part of the sum of exponentials

  template <int Count>
  __device__ __forceinline__ void begin(const float (&scores)[Count], float scale_log2) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = -fmaxf(row_maximum(scores, r), kNoKeySeen) * scale_log2;
      sum[r] = 0.0f;
    }
  }

  // Raises the references to what these scores need. factor: by which earlier exponentials shrink.
  template <int Count>
  __device__ __forceinline__ void raise(const float (&scores)[Count], float scale_log2, float (&factor)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float raised = fminf(-row_maximum(scores, r) * scale_log2, shift[r]);
      factor[r] = minference::cuda::exp2_approx(raised - shift[r]);
      shift[r] = raised;
      sum[r] *= factor[r];
    }
  }

  // scores -> exponentials; part: this thread's part of their row sums.
  template <int Count>
  __device__ __forceinline__ void exponentials(float (&scores)[Count], float scale_log2,
                                               float (&part)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float even = 0.0f, odd = 0.0f;
#pragma unroll
      for (int j = 0; j < Count / 4; ++j) {
        float& a = scores[4 * j + 2 * r];
        float& b = scores[4 * j + 2 * r + 1];
        a = minference::cuda::exp2_approx(fmaf(a, scale_log2, shift[r]));
        b = minference::cuda::exp2_approx(fmaf(b, scale_log2, shift[r]));
        even += a;
        odd += b;
      }
      part[r] = even + odd;
    }
  }

  // The row's whole sum, in each of the four threads that share it.
  __device__ __forceinline__ float row_sum(int r) const {
    const float pair = sum[r] + __shfl_xor_sync(minference::cuda::kAllLanes, sum[r], 1);
    return pair + __shfl_xor_sync(minference::cuda::kAllLanes, pair, 2);
  }

  // Natural logarithm of the sum of exp(score * softmax_scale).
  __device__ __forceinline__ float lse(int r, float row_sum) const {
    constexpr float kLn2 = 0.693147180559945f;
    return (__log2f(row_sum) - shift[r]) * kLn2;
  }

 private:
  template <int Count>
  static __device__ __forceinline__ float row_maximum(const float (&scores)[Count], int r) {
    float even = scores[2 * r], odd = scores[2 * r + 1];
#pragma unroll
    for (int j = 1; j < Count / 4; ++j) {
      even = fmaxf(even, scores[4 * j + 2 * r]);
      odd = fmaxf(odd, scores[4 * j + 2 * r + 1]);
    }
    float maximum = fmaxf(even, odd);
    maximum = fmaxf(maximum, __shfl_xor_sync(minference::cuda::kAllLanes, maximum, 1));
    return fmaxf(maximum, __shfl_xor_sync(minference::cuda::kAllLanes, maximum, 2));
  }
};

}  // namespace minference::kernels::cuda::sm90
