#pragma once

#include <cmath>

#include "kernels/attention/cuda/sm80/arguments.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/products.cuh"
#include "kernels/attention/cuda/sm80/tile_walk.cuh"
#include "kernels/attention/cuda/sm80/warp_place.cuh"
#include "kernels/attention/cuda/visible_keys.h"

namespace minference::kernels::cuda::sm80 {

__device__ __forceinline__ int key_limit(const CallShape& shape, int position) {
  return cuda::key_limit(shape.causal, position, shape.kv_len);
}

// row: of the item.
__device__ __forceinline__ VisibleKeys visible_to(int row, const Item& item, const CallShape& shape) {
  const int position = item.position + row;
  return VisibleKeys::of(position, {item.local, item.sink}, key_limit(shape, position), 0);
}

// Whether every row of this warp sees every key of the tile where `walk` stands.
template <class Config>
__device__ __forceinline__ bool sees_whole_tile(const TileWalk<Config>& walk, const Item& item,
                                                const CallShape& shape) {
  if (walk.in_columns()) return false;
  const int position = item.position + WarpPlace<Config>::warp_row();
  return sees_all(position, Config::kWarpRows, {item.local, item.sink}, key_limit(shape, position),
                  walk.start(), kTileKeys);
}

// Sets the scores of keys that their rows do not see to -inf.
template <class Config>
__device__ __forceinline__ void mask_scores(TileScores<Config>& scores, const TileWalk<Config>& walk,
                                            const SharedMemory<Config>& shared, const CallShape& shape) {
  using Place = WarpPlace<Config>;
  const Item& item = shared.item;
  if (sees_whole_tile(walk, item, shape)) return;
#pragma unroll
  for (int m = 0; m < Config::kRowTiles; ++m) {
    const int row = Place::mma_row(m);
    const VisibleKeys visible[2] = {visible_to(row, item, shape), visible_to(row + 8, item, shape)};
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
      const int at = 8 * n + 2 * (Place::lane() % 4);
      int key[2] = {walk.start() + at, walk.start() + at + 1};
      if (walk.in_columns()) {
        key[0] = shared.column[Place::team()][at];
        key[1] = shared.column[Place::team()][at + 1];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!visible[i / 2].holds(key[i % 2])) scores[m][n][i] = -INFINITY;
      }
    }
  }
}

}  // namespace minference::kernels::cuda::sm80
