#pragma once

#include <cstdint>

#include "kernels/attention/cuda/sm80/item.h"

// Shapes and shared memory of the sm80 attention kernel.
namespace minference::kernels::cuda::sm80 {

inline constexpr int kMmaRows = 16;
inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kChunkElements = 8;  // 16 bytes

// A warp holds 32 query rows up to head_dim 128, which halves what it reads of keys and values for a product,
// and 16 behind that. Warps that take the same tiles are a team. `Dense`: one team of 128 rows, for heads that
// compute every pair; otherwise an item is a row block of 64 rows, and where that needs two warps only, two
// teams take its tiles in turns and merge what they have at the end.
template <class Element, int HeadDim, bool Dense>
struct Config {
  static_assert(HeadDim % kMmaRows == 0 && (!Dense || HeadDim <= 128));
  using T = Element;
  static constexpr int kHeadDim = HeadDim;
  static constexpr bool kDense = Dense;
  static constexpr bool kHasDenseTwin = HeadDim <= 128;
  static constexpr int kRowTiles = HeadDim <= 128 ? 2 : 1;
  static constexpr int kWarpRows = kMmaRows * kRowTiles;
  static constexpr int kItemRows = Dense ? kWarps * kWarpRows : kRowBlock;
  static constexpr int kTeamWarps = kItemRows / kWarpRows;
  static constexpr int kTeamThreads = 32 * kTeamWarps;
  static constexpr int kTeams = kWarps / kTeamWarps;

  static constexpr int kChunks = HeadDim / kChunkElements;
  static constexpr int kPanels = (kChunks + 7) / 8;  // of eight chunks, 128 bytes
  static constexpr int kDimSteps = HeadDim / 16;
  static constexpr int kKeySteps = kTileKeys / 16;
  // ldmatrix reads one chunk of eight rows at once, which must lie in all banks: chunk c of row r stands at c ^
  // (r % 8), or rows are an odd number of chunks apart.
  static constexpr bool kSwizzled = HeadDim % 64 == 0;
  static constexpr int kRowBytes = 16 * (kSwizzled ? kChunks : kChunks + 1);
  static constexpr int kTileBytes = kTileKeys * kRowBytes;
  static constexpr int kWarpTileRows = kTileKeys / kTeamWarps;  // rows of a tile that a warp copies

  static MINFERENCE_HD constexpr int chunk_offset(int row, int chunk) {
    return row * kRowBytes + 16 * (kSwizzled ? chunk ^ row % 8 : chunk);
  }
};

template <class Config>
struct SharedMemory {
  alignas(128) std::uint8_t query[Config::kItemRows * Config::kRowBytes];  // and the output at the end
  alignas(128) std::uint8_t tile[Config::kTeams][2][Config::kTileBytes];   // keys and values
  std::int32_t column[Config::kTeams][kTileKeys];  // keys of a tile of columns; -1: none
  float lse[Config::kTeams == 1 ? 1 : Config::kItemRows];
  Item item;
  const char* source[2];  // the KV head's first key and value
};

}  // namespace minference::kernels::cuda::sm80
