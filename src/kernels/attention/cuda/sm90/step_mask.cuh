#pragma once

#include <cmath>

#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/consumer_warp.cuh"
#include "kernels/attention/cuda/sm90/step_tiles.cuh"
#include "kernels/attention/cuda/visible_keys.h"

// What of a step's scores counts, one word a tile and thread (KeptScores): found while the scores are still being
// computed, from the rows' visible keys for tiles and from the mask warps' words for columns.
namespace minference::kernels::cuda::sm90 {

inline constexpr KeptScores kKeepAll = ~KeptScores{0};

template <class Config>
struct StepMask {
  static constexpr int kStepTiles = Config::kStepTiles;
  KeptScores kept[kStepTiles];

  __device__ __forceinline__ void apply_to(float (&scores)[Config::kStepScores]) const {
    if (!__any_sync(minference::cuda::kAllLanes, (kept[0] & kept[kStepTiles - 1]) != kKeepAll)) return;
#pragma unroll
    for (int i = 0; i < Config::kStepScores; ++i) {
      if ((kept[i / kTileScores] >> i % kTileScores & 1u) == 0) scores[i] = -INFINITY;
    }
  }
};

template <class Config>
class StepMasks {
  using Warp = ConsumerWarp<Config>;
  static constexpr int kStepTiles = Config::kStepTiles;

 public:
  // Of step `number`, whose tiles are `now`.
  __device__ __forceinline__ StepMask<Config> of(const Warp& warp, int number, StepTiles now) const {
    const int column_tile = Config::kPairs ? -2 : first_column_tile(warp, number);
    const KeptScores first = kept_of_tile(warp, now.first(), column_tile);
    if constexpr (kStepTiles == 1) {
      return {first};
    } else {
      return {first, now.is_pair() ? kept_of_tile(warp, now.second(), column_tile + 1) : 0};
    }
  }

  // Behind an item's last step.
  __device__ __forceinline__ void leave_item(int column_tiles) {
    first_use_ = use_after(first_use_, column_tiles);
  }

 private:
  // The number among the columns of a step's first tile; negative: it is none.
  static __device__ __forceinline__ int first_column_tile(const Warp& warp, int number) {
    return kStepTiles * number - minference::cuda::warp_uniform(warp.item().tiles[warp.half]);
  }

  __device__ __forceinline__ KeptScores kept_of_tile(const Warp& warp, int use, int column_tile) const {
    if (column_tile >= 0) return kept_of_columns(warp, column_tile);
    // By the lane that gives the slot back, so that no other lane's reading need be ordered before that.
    int start = warp.lane() == 0 ? warp.shared.key_start[RingPosition<Config::kKeySlots>(use).slot] : 0;
    start = __shfl_sync(minference::cuda::kAllLanes, start, 0);
    const int warp_position = warp.position();
    const WindowRule window = {warp.item().local, warp.item().sink};
    const auto limit = [&](int position) {
      return key_limit(warp.plan.causal != 0, position, warp.plan.kv_len);
    };
    if (sees_all(warp_position, kWarpRows, window, limit(warp_position), start, kTileKeys)) return kKeepAll;
    const int position = warp_position + warp.lane() / 4, first_key = start + 2 * (warp.lane() % 4);
    const VisibleKeys rows[2] = {VisibleKeys::of(position, window, limit(position), first_key),
                                 VisibleKeys::of(position + 8, window, limit(position + 8), first_key)};
    return rows[0].pairs() | rows[1].pairs() << 2;
  }

  __device__ __forceinline__ KeptScores kept_of_columns(const Warp& warp, int column_tile) const {
    const RingPosition<kColumnMasks> at(use_after(first_use_, column_tile));
    warp.shared.mask_full[at.slot].wait(at.parity);
    constexpr int kLate = kColumnMaskReaders - 1;
    KeptScores word = 0;
    if (warp.lane() <= kLate) {
      word = warp.shared.column_mask[at.slot].words[warp.half][warp.lane()];
      warp.shared.mask_empty[at.slot].arrive();
    }
    const KeptScores kept = __shfl_sync(minference::cuda::kAllLanes, word, warp.lane() % 4);
    const bool late = __shfl_sync(minference::cuda::kAllLanes, word, kLate) != 0;
    return late ? kept & ~late_columns(warp, column_tile) : kept;
  }

  // Columns behind some row of the half: rows before them do not see them.
  static __device__ __forceinline__ KeptScores late_columns(const Warp& warp, int column_tile) {
    const Item& item = warp.item();
    const std::int32_t* columns = warp.plan.columns +
                                  static_cast<std::int64_t>(item.head) * warp.plan.column_capacity +
                                  column_tile * kTileKeys;
    const int position = warp.position() + warp.lane() / 4;
    const int left = item.num_columns - column_tile * kTileKeys;
    KeptScores late = 0;
#pragma unroll
    for (int i = 0; i < kTileScores / 2; ++i) {
      const int n = i / 2 * 8 + 2 * (warp.lane() % 4) + i % 2, bit = i / 2 * 4 + i % 2;
      const int column = n < left ? __ldg(columns + n) : 0;
      if (column > position) late |= 1u << bit;
      if (column > position + 8) late |= 4u << bit;
    }
    return late;
  }

  int first_use_ = 0;  // of the ring of column masks, by the item's first column tile
};

}  // namespace minference::kernels::cuda::sm90
