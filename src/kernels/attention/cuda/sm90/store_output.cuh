#pragma once

#include "base/tensor.h"
#include "cuda/math.cuh"
#include "cuda/tma.cuh"
#include "kernels/attention/cuda/sm90/consumer_warp.cuh"
#include "kernels/attention/cuda/sm90/softmax.cuh"

namespace minference::kernels::cuda::sm90 {

// Where a consumer warp's rows of an item go: the output through the buffer of queries, the LSE straight to memory.
template <class Config>
class OutputStore {
  using Warp = ConsumerWarp<Config>;

 public:
  __device__ __forceinline__ OutputStore(const CUtensorMap& out, base::RowsView lse) : out_(out), lse_(lse) {}

  // Normalises the output, writes it over this warp's rows of the queries and sends it from there. row: the first
  // one of the warp, of the call.
  template <int Outputs>
  __device__ __forceinline__ void store(const Warp& warp, const float (&output)[Outputs],
                                        const Softmax& softmax, int head, int row) {
    using namespace minference::cuda;
    using T = typename Config::T;
    const float sum[2] = {softmax.row_sum(0), softmax.row_sum(1)};
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) inverse[r] = sum[r] > 0.0f ? __fdividef(1.0f, sum[r]) : 0.0f;
    std::uint8_t* rows = warp.shared.query + warp.first_row() * kPanelRowBytes;
#pragma unroll
    for (int j = 0; j < Outputs / 8; ++j) {
      const int chunk = (2 * j % 8 + warp.lane() / 16) ^ warp.lane() % 8;
      const float* x = output + 8 * j;
      store_matrices(
          warp.query_row() + j / 4 * Config::kQueryPanelBytes + (chunk << 4),
          pack<T>(x[0] * inverse[0], x[1] * inverse[0]), pack<T>(x[2] * inverse[1], x[3] * inverse[1]),
          pack<T>(x[4] * inverse[0], x[5] * inverse[0]), pack<T>(x[6] * inverse[1], x[7] * inverse[1]));
    }
    fence_async_shared();
    __syncwarp();
    if (warp.lane() == 0) {
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        tma_store(out_, rows + panel * Config::kQueryPanelBytes, panel * kPanelDim, row, head);
      }
      tma_store_commit();
    }
    if (lse_.data != nullptr && warp.lane() % 4 == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = row + warp.lane() / 4 + 8 * r;
        if (at < warp.plan.q_len) {
          lse_.data[head * lse_.head_stride + at * lse_.row_stride] = softmax.lse(r, sum[r]);
        }
      }
    }
    unsettled_ = true;
  }

  // Gives back the rows of queries from which the output has been sent.
  __device__ __forceinline__ void settle(const Warp& warp) {
    if (!unsettled_) return;
    if (warp.lane() == 0) {
      minference::cuda::tma_store_wait_read();
      warp.shared.query_empty.arrive();
    }
    __syncwarp();
    unsettled_ = false;
  }

  // Waits until everything that this lane has sent lies in memory.
  __device__ __forceinline__ void finish(const Warp& warp) const {
    if (warp.lane() == 0) minference::cuda::tma_store_wait();
  }

 private:
  const CUtensorMap& out_;
  const base::RowsView lse_;
  bool unsettled_ = false;  // an output may still be read from the buffer of queries
};

}  // namespace minference::kernels::cuda::sm90
