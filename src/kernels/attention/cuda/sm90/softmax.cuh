#pragma once

#include <cmath>

#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/config.h"
#include "kernels/attention/cuda/visible_keys.h"

// Masks and the softmax of a step's scores: 64 rows by one or two tiles of 64 keys, held by a warpgroup in wgmma's
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

inline constexpr KeptScores kKeepAll = ~KeptScores{0};

// visible: of the thread's two rows, counted from its first key.
__device__ __forceinline__ KeptScores keep_keys(const VisibleKeys (&visible)[2]) {
  return visible[0].pairs() | visible[1].pairs() << 2;
}

template <int Tiles>
__device__ __forceinline__ void mask_scores(float (&scores)[Tiles * kTileScores],
                                            const KeptScores (&kept)[Tiles]) {
#pragma unroll
  for (int i = 0; i < Tiles * kTileScores; ++i) {
    if ((kept[i / kTileScores] >> i % kTileScores & 1u) == 0) scores[i] = -INFINITY;
  }
}

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

// A thread's part of 16 elements of its warp's queries.
struct QueryPart {
  std::uint32_t words[4];
};

// A tile's scores once more, for one warp's 16 rows: wgmma would need the whole warpgroup. query(k): 16 elements of
// head_dim, as wgmma takes them from registers; key_tile: shared address of the tile.
template <class Config, int Tile, class Query>
__device__ __forceinline__ void scores_again(float (&scores)[Config::kStepScores], Query query,
                                             std::uint32_t key_tile) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < kTileScores; ++i) scores[kTileScores * Tile + i] = 0.0f;
  const std::uint32_t key_row = key_tile + (lane % 8 + lane / 16 * 8) * kPanelRowBytes;
#pragma unroll
  for (int k = 0; k < Config::kHeadDim / 16; ++k) {
    // The swizzle exchanges chunk c (8 elements) of row r with chunk c ^ r % 8.
    const int chunk = (2 * (k % 4) + lane / 8 % 2) ^ lane % 8;
    const QueryPart part = query(k);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t key[4];
      minference::cuda::load_matrices(
          key, key_row + k / 4 * Config::kKeyPanelStride + 16 * j * kPanelRowBytes + (chunk << 4));
      float* d = scores + kTileScores * Tile + 8 * j;
      minference::cuda::mma_m16n8k16<typename Config::T>(d, part.words, key[0], key[1]);
      minference::cuda::mma_m16n8k16<typename Config::T>(d + 4, part.words, key[2], key[3]);
    }
  }
}

}  // namespace minference::kernels::cuda::sm90
