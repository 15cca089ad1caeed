#pragma once

#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/sm80/arguments.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/warp_place.cuh"

namespace minference::kernels::cuda::sm80 {

// A team's walk over the tiles of an item and, behind them, its columns, 64 at a time.
template <class Config>
class TileWalk {
  using Place = WarpPlace<Config>;

 public:
  // To the team's next tile or, behind the last one, its next 64 columns.
  __device__ __forceinline__ void advance(const Item& item) {
    if (!in_columns_) {
      tile_ += Config::kTeams;
      if (tile_ < item.num_tiles) {
        start_ = item.start_of(tile_);
        if (start_ > -kTileKeys) return;  // otherwise the rest lies before key 0
      }
      in_columns_ = true;
      tile_ = -1 - Place::team();  // so that the team with the odd tile gets the first columns last
    }
    tile_ += Config::kTeams;
    const int first = tile_ * kTileKeys;
    done_ = first >= item.num_columns || item.columns[first] >= item.key_end;
  }

  // This warp's part of the keys of a tile of columns, without those that lie in the head's tiles.
  __device__ __forceinline__ void list_columns(SharedMemory<Config>& shared, const CallShape& shape) const {
    if (!in_columns_) return;
    static_assert(Config::kWarpTileRows <= 32);
    const Item& item = shared.item;
    if (Place::lane() < Config::kWarpTileRows) {
      const int at = Place::team_warp() * Config::kWarpTileRows + Place::lane();
      const int number = tile_ * kTileKeys + at;
      int key = number < item.num_columns ? item.columns[number] : kNoColumn;
      if (key >= item.key_end) key = kNoColumn;
      if (key >= 0 && item.cover != nullptr && covers(item.cover, shape.kv_len, key - item.block_position))
        key = kNoColumn;
      shared.column[Place::team()][at] = key;
    }
    __syncwarp();
  }

  __device__ __forceinline__ bool done() const { return done_; }
  __device__ __forceinline__ bool in_columns() const { return in_columns_; }
  // The tile's first key; says nothing in columns.
  __device__ __forceinline__ int start() const { return start_; }

 private:
  static constexpr int kNoColumn = -1;

  int tile_ = Place::team() - Config::kTeams;  // of the item; behind the tiles, counts tiles of columns
  int start_ = 0;
  bool in_columns_ = false;
  bool done_ = false;
};

}  // namespace minference::kernels::cuda::sm80
