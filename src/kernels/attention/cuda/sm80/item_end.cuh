#pragma once

#include <cmath>

#include "base/tensor.h"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm80/arguments.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/products.cuh"
#include "kernels/attention/cuda/sm80/softmax.cuh"
#include "kernels/attention/cuda/sm80/warp_place.cuh"

namespace minference::kernels::cuda::sm80 {

// The end of an item: normalises, merges what the teams have, and stores output and LSE.
template <class Config>
class ItemEnd {
  using T = typename Config::T;
  using Place = WarpPlace<Config>;
  using Lse = float[Config::kRowTiles][2];  // in units of log 2
  static constexpr int kDimOctets = Products<Config>::kDimOctets;

 public:
  __device__ __forceinline__ ItemEnd(SharedMemory<Config>& shared, const Arguments& arguments,
                                     Products<Config>& products)
      : shared_(shared), arguments_(arguments), products_(products) {}

  __device__ __forceinline__ void finish(const Softmax<Config>& softmax) {
    Lse lse;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float inverse[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const RowSoftmax& row = softmax.rows[m][r];
        const float sum = quad_sum(row.sum);
        inverse[r] = sum > 0.0f ? 1.0f / sum : sum == 0.0f ? 0.0f : sum;  // a NaN stays one
        lse[m][r] = row.shift(arguments_.scale_log2) + log2f(sum);
      }
      products_.scale_output(m, inverse);
    }
    if constexpr (Config::kTeams == 2) {
      if (Place::team() == 1) give(lse);
      __syncthreads();
      if (Place::team() == 1) return;
      merge(lse);
    }
    store_lse(lse);
    store_output();
  }

 private:
  // Where the second team leaves this warp's rows, in the order of registers: its tiles are done with.
  __device__ __forceinline__ float* given_output() const {
    static_assert(2 * Config::kTileBytes >=
                  Config::kItemRows * Config::kHeadDim * static_cast<int>(sizeof(float)));
    return reinterpret_cast<float*>(shared_.tile[Config::kTeams - 1]) +
           Place::team_warp() * Config::kWarpRows * Config::kHeadDim + Place::lane();
  }
  __device__ __forceinline__ float& given_lse(int m, int r) const {
    return shared_.lse[Place::mma_row(m) + 8 * r];
  }

  __device__ __forceinline__ void give(const Lse& lse) {
    Place::team_barrier();  // the team has read its last values
    float* to = given_output();
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4 * kDimOctets; ++i)
        to[32 * (4 * kDimOctets * m + i)] = products_.output[m][i / 4][i % 4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (Place::lane() % 4 == 0) given_lse(m, r) = lse[m][r];
      }
    }
  }

  __device__ __forceinline__ void merge(Lse& lse) {
    using minference::cuda::exp2_approx;
    const float* from = given_output();
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float own[2], given[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float other = given_lse(m, r), higher = fmaxf(lse[m][r], other);
        const float reference = higher == -INFINITY ? 0.0f : higher;
        own[r] = exp2_approx(lse[m][r] - reference);
        given[r] = exp2_approx(other - reference);
        const float sum = own[r] + given[r], inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        own[r] *= inverse;
        given[r] *= inverse;
        lse[m][r] = reference + log2f(sum);
      }
#pragma unroll
      for (int i = 0; i < 4 * kDimOctets; ++i) {
        const int r = i % 4 / 2;
        float& x = products_.output[m][i / 4][i % 4];
        x = own[r] * x + given[r] * from[32 * (4 * kDimOctets * m + i)];
      }
    }
  }

  __device__ __forceinline__ void store_lse(const Lse& lse) const {
    constexpr float kLn2 = 0.693147180559945f;
    const base::RowsView& out = arguments_.lse;
    if (out.data == nullptr || Place::lane() % 4 != 0) return;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = shared_.item.first_row + Place::mma_row(m) + 8 * r;
        if (row < shared_.item.end_row) out.at(shared_.item.head, row) = lse[m][r] * kLn2;
      }
    }
  }

  // Through this warp's rows of the queries, so that whole chunks go out.
  __device__ __forceinline__ void store_output() {
    __syncwarp();  // all lanes have read the queries
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kDimOctets; ++n) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = Place::mma_row(m) + 8 * r;
          *reinterpret_cast<std::uint32_t*>(shared_.query + Config::chunk_offset(row, n) +
                                            Place::lane() % 4 * 4) =
              minference::cuda::pack<T>(products_.output[m][n][2 * r], products_.output[m][n][2 * r + 1]);
        }
      }
    }
    __syncwarp();
    const base::OutputHeads& out = arguments_.out;
    for (int i = Place::lane(); i < Config::kWarpRows * Config::kChunks; i += 32) {
      const int row = Place::warp_row() + i / Config::kChunks, chunk = i % Config::kChunks;
      const int out_row = shared_.item.first_row + row;
      if (out_row >= shared_.item.end_row || chunk * kChunkElements >= arguments_.head_dim) continue;
      const uint4 x = *reinterpret_cast<const uint4*>(shared_.query + Config::chunk_offset(row, chunk));
      auto* to = static_cast<std::uint16_t*>(out.data) + shared_.item.head * out.head_stride +
                 out_row * out.row_stride + chunk * kChunkElements;
      if (arguments_.out_aligned) {
        *reinterpret_cast<uint4*>(to) = x;
      } else {
        const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e)
          to[e] = static_cast<std::uint16_t>(words[e / 2] >> (16 * (e % 2)));
      }
    }
  }

  SharedMemory<Config>& shared_;
  const Arguments& arguments_;
  Products<Config>& products_;
};

}  // namespace minference::kernels::cuda::sm80
