#pragma once

#include "cuda/copy_async.cuh"
#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/sm80/arguments.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/copies.cuh"
#include "kernels/attention/cuda/sm80/item_end.cuh"
#include "kernels/attention/cuda/sm80/mask.cuh"
#include "kernels/attention/cuda/sm80/products.cuh"
#include "kernels/attention/cuda/sm80/softmax.cuh"
#include "kernels/attention/cuda/sm80/tile_walk.cuh"
#include "kernels/attention/cuda/sm80/warp_place.cuh"

// Attention over lists of 64-key tiles and gathered columns with the instructions of sm_80: mma.sync, ldmatrix
// and cp.async. docs/kernels/attention-sm80.md has the schedule.
namespace minference::kernels::cuda::sm80 {

// A warp's loop over its team's tiles, for its rows of the item.
template <class Config>
class Warp {
  using Place = WarpPlace<Config>;

 public:
  __device__ __forceinline__ Warp(SharedMemory<Config>& shared, const Arguments& arguments)
      : shared_(shared), arguments_(arguments), products_(shared), copies_(shared) {}

  __device__ __forceinline__ void run() {
    copies_.load_query(shared_, arguments_);
    walk_.advance(shared_.item);
    if (!walk_.done()) load_keys();
    minference::cuda::copy_async_commit();
    minference::cuda::copy_async_wait<0>();
    __syncthreads();  // every warp has copied a part of the queries
    while (!walk_.done()) {
      minference::cuda::copy_async_wait<0>();
      Place::team_barrier();  // the keys are here; the values before have been used
      copies_.load_tile(shared_, arguments_, walk_, 1, arguments_.value.row_stride);
      minference::cuda::copy_async_commit();
      TileScores<Config> scores = {};
      products_.multiply_scores(scores);
      mask_scores(scores, walk_, shared_, arguments_.shape);
      walk_.advance(shared_.item);
      minference::cuda::copy_async_wait<0>();
      Place::team_barrier();  // the values are here; keys and columns have been used
      if (!walk_.done()) {
        load_keys();
        minference::cuda::copy_async_commit();
      }
      softmax_.weigh(scores, arguments_.scale_log2, products_);
      products_.multiply_values(scores);
    }
    minference::cuda::copy_async_wait<0>();
    ItemEnd<Config>(shared_, arguments_, products_).finish(softmax_);
  }

 private:
  __device__ __forceinline__ void load_keys() {
    walk_.list_columns(shared_, arguments_.shape);
    copies_.load_tile(shared_, arguments_, walk_, 0, arguments_.key.row_stride);
  }

  SharedMemory<Config>& shared_;
  const Arguments& arguments_;
  TileWalk<Config> walk_;
  Products<Config> products_;
  Copies<Config> copies_;
  Softmax<Config> softmax_;
};

template <class Config>
__device__ __forceinline__ ItemRows rows_of(const Arguments& arguments, int head, int number) {
  const std::int32_t q_len = arguments.shape.q_len;
  const sparse::DeviceIndex& index = arguments.index;
  if constexpr (Config::kDense) {
    const std::int32_t begin = number * Config::kItemRows;
    return {begin, begin, base::min(begin + Config::kItemRows, q_len), true};
  } else {
    return ItemRows::of(number, q_len, index.last_dense_rows == nullptr ? 0 : index.last_dense_rows[head]);
  }
}

template <class Config>
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<SharedMemory<Config>*>(memory);
  const sparse::DeviceIndex& index = arguments.index;
  const int place = static_cast<int>(blockIdx.x), head = arguments.schedule.head(place);
  if constexpr (Config::kHasDenseTwin) {
    const bool all = index.heads == nullptr || index.heads[head].form == sparse::IndexForm::all;
    if (all != Config::kDense) return;
  }
  const ItemRows rows = rows_of<Config>(arguments, head, arguments.schedule.number(place));
  if (rows.end <= rows.begin) return;
  if (threadIdx.x == 0) {
    shared.item =
        Item::of(arguments.shape, index, arguments.cover, cover_words(arguments.shape.kv_len), head, rows);
    const std::int64_t kv_head = head / arguments.schedule.group;
    shared.source[0] = arguments.key.data + kv_head * arguments.key.head_stride;
    shared.source[1] = arguments.value.data + kv_head * arguments.value.head_stride;
  }
  __syncthreads();
  Warp<Config>(shared, arguments).run();
}

}  // namespace minference::kernels::cuda::sm80
