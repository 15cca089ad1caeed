#pragma once

#include "cuda/copy_async.cuh"
#include "kernels/attention/cuda/sm80/arguments.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/tile_walk.cuh"
#include "kernels/attention/cuda/sm80/warp_place.cuh"

namespace minference::kernels::cuda::sm80 {

// Copies of queries, keys and values to shared memory. A warp copies four rows at a time, eight chunks of each.
template <class Config>
class Copies {
  using Place = WarpPlace<Config>;

 public:
  __device__ __forceinline__ explicit Copies(SharedMemory<Config>& shared)
      : tile_(minference::cuda::shared_address(shared.tile[Place::team()][0]) +
              Config::chunk_offset(Place::team_warp() * Config::kWarpTileRows + row(), chunk())) {}

  // Starts this warp's part of the item's queries.
  __device__ __forceinline__ void load_query(SharedMemory<Config>& shared, const Arguments& arguments) const {
    constexpr int kRows = Config::kItemRows / kWarps;
    static_assert(kRows % 8 == 0 && Config::kWarpTileRows % 8 == 0);
    const ByteRows& query = arguments.query;
    const Item& item = shared.item;
    copy_rows<kRows>(minference::cuda::shared_address(shared.query) +
                         Config::chunk_offset(Place::warp() * kRows + row(), chunk()),
                     query.data + item.head * query.head_stride, query.row_stride, arguments.head_dim,
                     item.end_row, [&](int r) { return item.first_row + Place::warp() * kRows + r; });
  }

  // Starts this warp's part of the keys (slot 0) or values (slot 1) of the tile where `walk` stands.
  __device__ __forceinline__ void load_tile(const SharedMemory<Config>& shared, const Arguments& arguments,
                                            const TileWalk<Config>& walk, int slot,
                                            std::int32_t row_stride) const {
    const int first_row = Place::team_warp() * Config::kWarpTileRows;
    const std::uint32_t to = tile_ + slot * Config::kTileBytes;
    const int num_rows = arguments.shape.kv_len;
    if (walk.in_columns()) {
      const std::int32_t* column = shared.column[Place::team()] + first_row;
      copy_rows<Config::kWarpTileRows>(to, shared.source[slot], row_stride, arguments.head_dim, num_rows,
                                       [&](int r) { return column[r]; });
    } else {
      const int start = walk.start() + first_row;
      copy_rows<Config::kWarpTileRows>(to, shared.source[slot], row_stride, arguments.head_dim, num_rows,
                                       [&](int r) { return start + r; });
    }
  }

 private:
  static constexpr int kCopyRows = 4;
  static __device__ __forceinline__ int row() { return Place::lane() / 8; }
  static __device__ __forceinline__ int chunk() { return Place::lane() % 8; }

  // `Rows` rows to `to`, where this lane's chunk of the first one goes: row r is row_of(r) of `source`, or zero
  // where that lies outside [0, num_rows).
  template <int Rows, class RowOf>
  static __device__ __forceinline__ void copy_rows(std::uint32_t to, const char* source,
                                                   std::int32_t row_stride, int head_dim, int num_rows,
                                                   RowOf&& row_of) {
    const int chunks_left = head_dim / kChunkElements - chunk();
    source += 16 * chunk();
#pragma unroll
    for (int i = 0; i < Rows / kCopyRows; ++i) {
      const int r = row_of(i * kCopyRows + row());
      const bool present = static_cast<unsigned>(r) < static_cast<unsigned>(num_rows);
      const char* from = source + static_cast<std::int64_t>(present ? r : 0) * row_stride;
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        constexpr bool kWhole = Config::kChunks % 8 == 0;
        if (kWhole || panel + 1 < Config::kPanels || chunk() < Config::kChunks % 8) {
          minference::cuda::copy_async(after_rows(to, i * kCopyRows) + 128 * panel, from + 128 * panel,
                                       present && 8 * panel < chunks_left);
        }
      }
    }
  }

  // `rows` rows, a multiple of four, further than the address of a chunk in one of rows 0 to 3 of eight.
  static __device__ __forceinline__ std::uint32_t after_rows(std::uint32_t address, int rows) {
    const std::uint32_t swizzle = Config::kSwizzled ? rows % 8 * 16 : 0;
    return (address ^ swizzle) + rows * Config::kRowBytes;
  }

  std::uint32_t tile_;  // where this lane's first chunk of keys goes
};

}  // namespace minference::kernels::cuda::sm80
