#pragma once

#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/warp_place.cuh"

namespace minference::kernels::cuda::sm80 {

// A warp's scores of a tile, then their exponentials. mma gives lane l the rows l / 4 and l / 4 + 8 of sixteen, and
// columns 2 (l % 4) and the next of eight.
template <class Config>
using TileScores = float[Config::kRowTiles][kTileKeys / 8][4];

// A warp's two matrix products, and the output that they add up, held as scores are.
template <class Config>
class Products {
  using T = typename Config::T;
  using Place = WarpPlace<Config>;
  static constexpr int kKeyOctets = kTileKeys / 8;

 public:
  static constexpr int kDimOctets = Config::kHeadDim / 8;

  float output[Config::kRowTiles][kDimOctets][4] = {};

  __device__ __forceinline__ explicit Products(SharedMemory<Config>& shared) {
    using minference::cuda::shared_address;
    const int lane = Place::lane();
    const int row = lane % 16, chunk = lane / 16;  // of ldmatrix, for queries and values
    query_ = shared_address(shared.query) + Config::chunk_offset(Place::warp_row() + row, chunk);
    value_ = shared_address(shared.tile[Place::team()][1]) + Config::chunk_offset(row, chunk);
    key_ = shared_address(shared.tile[Place::team()][0]) +
           Config::chunk_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  }

  // scores = query * keys^T
  __device__ __forceinline__ void multiply_scores(TileScores<Config>& scores) const {
    using namespace minference::cuda;
#pragma unroll
    for (int k = 0; k < Config::kDimSteps; ++k) {
      std::uint32_t query[Config::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < Config::kRowTiles; ++m)
        load_matrices(query[m], chunk_pair(query_, k) + m * kMmaRows * Config::kRowBytes);
#pragma unroll
      for (int n = 0; n < kKeyOctets; n += 2) {
        std::uint32_t keys[4];
        load_matrices(keys, chunk_pair(key_, k) + n * 8 * Config::kRowBytes);
#pragma unroll
        for (int m = 0; m < Config::kRowTiles; ++m) {
          mma_m16n8k16<T>(scores[m][n], query[m], keys[0], keys[1]);
          mma_m16n8k16<T>(scores[m][n + 1], query[m], keys[2], keys[3]);
        }
      }
    }
  }

  // output += weights * values
  __device__ __forceinline__ void multiply_values(const TileScores<Config>& weights) {
    using namespace minference::cuda;
#pragma unroll
    for (int k = 0; k < Config::kKeySteps; ++k) {
      std::uint32_t packed[Config::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = weights[m][2 * k + i / 2] + i % 2 * 2;
          packed[m][i] = pack<T>(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kDimOctets; n += 2) {
        std::uint32_t values[4];
        load_matrices_transposed(values, chunk_pair(value_, n / 2) + k * 16 * Config::kRowBytes);
#pragma unroll
        for (int m = 0; m < Config::kRowTiles; ++m) {
          mma_m16n8k16<T>(output[m][n], packed[m], values[0], values[1]);
          mma_m16n8k16<T>(output[m][n + 1], packed[m], values[2], values[3]);
        }
      }
    }
  }

  // factor: of the lane's two rows of the m-th sixteen.
  __device__ __forceinline__ void scale_output(int m, const float (&factor)[2]) {
#pragma unroll
    for (int n = 0; n < kDimOctets; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) output[m][n][i] *= factor[i / 2];
    }
  }

 private:
  // Chunks 2 step and 2 step + 1 for the address of a lane's row and its chunk 0 or 1.
  static __device__ __forceinline__ std::uint32_t chunk_pair(std::uint32_t address, int step) {
    if constexpr (Config::kSwizzled) {
      return (address ^ static_cast<std::uint32_t>(32 * step % 128)) + 32 * step / 128 * 128;
    } else {
      return address + 32 * step;
    }
  }

  std::uint32_t query_, key_, value_;  // what this lane gives ldmatrix for step 0
};

}  // namespace minference::kernels::cuda::sm80
