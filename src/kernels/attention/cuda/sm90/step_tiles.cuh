#pragma once

#include "cuda/barrier.cuh"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/consumer_warp.cuh"

// The tiles of a consumer's steps: which ones a half takes, waiting for them in the rings of keys and values, and
// giving them back.
namespace minference::kernels::cuda::sm90 {

// A step's tiles, as uses of the rings of keys and values; the same one twice when the second is absent.
struct StepTiles {
  int packed;

  __device__ __forceinline__ StepTiles() {}
  __device__ __forceinline__ StepTiles(int first, int second) : packed(first | second << 8) {}
  __device__ __forceinline__ int first() const { return packed & 0xff; }
  __device__ __forceinline__ int second() const { return packed >> 8; }
  __device__ __forceinline__ bool is_pair() const { return first() != second(); }
};

// full: of the keys or of the values.
template <class Config, int Slots>
__device__ __forceinline__ void wait_for_tiles(minference::cuda::Barrier (&full)[Slots], StepTiles tiles) {
  const RingPosition<Slots> first(tiles.first()), second(tiles.second());
  if constexpr (Config::kStepTiles == 1) return full[first.slot].wait(first.parity);
  minference::cuda::wait_for_both(full[first.slot], first.parity, full[second.slot], second.parity);
}

template <class Config, int Slots>
__device__ __forceinline__ void release_tiles(minference::cuda::Barrier (&empty)[Slots], StepTiles tiles) {
  if (ConsumerWarp<Config>::lane() == 0) {
    empty[RingPosition<Slots>(tiles.first()).slot].arrive();
    if (Config::kStepTiles == 2 && tiles.is_pair()) empty[RingPosition<Slots>(tiles.second()).slot].arrive();
  }
}

// Walks down the tiles of a half's steps, one step ahead, so that nothing waits for what it takes to find them.
template <class Config>
class TileWalk {
  static constexpr int kStepTiles = Config::kStepTiles;
  struct alignas(sizeof(std::int32_t) * kStepTiles) StepOrder {
    std::int32_t place[kStepTiles];
  };

 public:
  // Returns the tiles of an item's first step. first_use: of the rings, by the item's entry 0.
  __device__ __forceinline__ StepTiles begin_item(const ConsumerWarp<Config>& warp, int first_use) {
    first_use_ = first_use;
    if constexpr (!Config::kPairs) {
      order_at_ = warp.item().order_at[warp.half] / kStepTiles;
      for (int i = 0; i < kStepTiles; ++i) order_.place[i] = warp.item().first[warp.half][i];
    }
    find_next(warp, 0);
    return with_columns(warp, 0);
  }

  // Finds the tiles of step `number`, as if only tiles were left. Steps are asked for in order.
  __device__ __forceinline__ void find_next(const ConsumerWarp<Config>& warp, int number) {
    if constexpr (Config::kPairs) {
      const int first = use_after(first_use_, 2 * number);  // even, as is every ring's size
      next_ = {first, first + 1};
    } else {
      next_ = {use_after(first_use_, order_.place[0]), use_after(first_use_, order_.place[kStepTiles - 1])};
      next_.packed = minference::cuda::warp_uniform(next_.packed);
      order_ = reinterpret_cast<const StepOrder*>(warp.plan.order)[++order_at_];
    }
  }

  // Puts columns behind the last tile of what find_next() found for step `number`.
  __device__ __forceinline__ void add_columns(const ConsumerWarp<Config>& warp, int number) {
    next_ = with_columns(warp, number);
  }

  __device__ __forceinline__ StepTiles next() const { return next_; }

  __device__ __forceinline__ int first_use() const { return first_use_; }

 private:
  __device__ __forceinline__ StepTiles with_columns(const ConsumerWarp<Config>& warp, int number) const {
    using minference::cuda::warp_uniform;
    if constexpr (Config::kPairs) return next_;
    const Item& item = warp.item();
    const int tiles = warp_uniform(item.tiles[warp.half]), total = tiles + warp_uniform(item.column_tiles());
    const int j = kStepTiles * number, first_column = first_use_ + warp_uniform(item.num_entries) - tiles;
    const int first = j < tiles ? next_.first() : use_after(first_column, j);
    if constexpr (kStepTiles == 1) return {first, first};
    const int second = j + 1 < tiles ? next_.second() : use_after(first_column, j + 1);
    return {first, j + 1 < total ? second : first};
  }

  StepTiles next_;   // what find_next() found
  int first_use_;    // of the rings, by the item's entry 0
  int order_at_;     // of the tiles that `order_` holds, counted in steps
  StepOrder order_;  // of the tiles of the step behind `next_`
};

}  // namespace minference::kernels::cuda::sm90
