#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/barrier.cuh"
#include "kernels/attention/cuda/sm90/plan.h"

// Shapes and the shared-memory plan of the Hopper attention kernel.
namespace minference::kernels::cuda::sm90 {

inline constexpr int kPanelDim = 64;  // elements of a 128-byte swizzled row
inline constexpr int kPanelRowBytes = 128;
inline constexpr int kTilePanelBytes = kTileKeys * kPanelRowBytes;  // one panel of a 64-key tile
inline constexpr int kWarpgroup = 128;
inline constexpr int kThreads = 3 * kWarpgroup;  // producers, then the warpgroup of each half
inline constexpr int kConsumerWarps = 8;
inline constexpr int kHalfWarps = 4;
inline constexpr int kWarpRows = kHalfRows / kHalfWarps;
inline constexpr int kItemBuffers = 2;
inline constexpr int kColumnMasks = 16;
inline constexpr int kColumnMaskBatch = 2;  // column tiles whose masks a warp makes at once
inline constexpr int kColumnMaskWarps = 2;
inline constexpr int kProducerRegisters = 40;
inline constexpr int kConsumerRegisters = 232;

// Every lane that writes or reads a column mask in shared memory arrives for itself.
inline constexpr int kColumnMaskWriters = 8;
inline constexpr int kColumnMaskReaders = 5;  // of a consumer warp

enum NamedBarrier : int { kTurnOfLowerHalf = 1, kTurnOfUpperHalf = 2, kLowerHalf = 3, kUpperHalf = 4 };

// Of one tile, held by a thread.
inline constexpr int kTileScores = kTileKeys / 2;

// Pairs: every item has an even number of entries and each half computes all of them, so a step's two tiles always
// stand in neighbouring slots. Dense calls, and block lists made of squares.
template <class Element, int HeadDim, bool Pairs>
struct Config {
  using T = Element;
  static constexpr bool kPairs = Pairs;
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kPanels = (HeadDim + kPanelDim - 1) / kPanelDim;
  static constexpr int kStepTiles = tiles_a_step(HeadDim);
  static constexpr int kStepScores = kStepTiles * kTileScores;
  static_assert(kStepTiles == 2 || !Pairs);
  // Queries in registers leave their buffer to the next item's while an item is computed. Where they have no room there,
  // the buffer is theirs until the item's last scores, and items do not overlap.
  static constexpr bool kQueryInRegisters = kStepTiles == 2;
  // Keys are held until their exponentials are known to be in range, values only for the product: three steps
  // of two tiles against two.
  static constexpr int kKeySlots = kPanels == 1 ? 8 : kPanels == 2 ? 6 : 3;
  static constexpr int kValueSlots = kPanels == 1 ? 8 : kPanels == 2 ? 6 : 2;
  static constexpr int kKeyPanelStride = kKeySlots * kTilePanelBytes;
  static constexpr int kValuePanelStride = kValueSlots * kTilePanelBytes;
  static constexpr int kQueryPanelBytes = kItemRows * kPanelRowBytes;
  static constexpr int kQueryBytes = kPanels * kQueryPanelBytes;
  static constexpr int kTileBytes = kPanels * kTilePanelBytes;
};

// Which of a thread's scores of one tile count: bit 4 j + e for row r + 8 (e / 2), key 8 j + 2 (t % 4) + e % 2,
// where wgmma gives thread t rows r and r + 8.
using KeptScores = std::uint32_t;

// Of a tile of columns, by half: by t % 4, the columns that lie in none of the half's tiles and not behind its last
// row; then whether some kept column lies behind the half's first row.
struct ColumnMask {
  KeptScores words[2][kColumnMaskReaders];
};

// Panels outermost, so that two tiles in neighbouring slots form one operand of 128 keys.
template <class Config>
struct SharedMemory {
  // An item's queries, until they are in registers or used for the last time; then the output on its way out.
  alignas(1024) std::uint8_t query[Config::kQueryBytes];
  alignas(1024) std::uint8_t key[Config::kPanels][Config::kKeySlots][kTilePanelBytes];
  alignas(1024) std::uint8_t value[Config::kPanels][Config::kValueSlots][kTilePanelBytes];
  Item item[kItemBuffers];
  ColumnMask column_mask[kColumnMasks];
  std::int32_t key_start[Config::kKeySlots];  // of a tile that is no column's: its first key, maybe negative
  minference::cuda::Barrier item_full[kItemBuffers], item_empty[kItemBuffers], query_empty;
  minference::cuda::Barrier key_full[Config::kKeySlots], key_empty[Config::kKeySlots];
  minference::cuda::Barrier value_full[Config::kValueSlots], value_empty[Config::kValueSlots];
  minference::cuda::Barrier mask_full[kColumnMasks], mask_empty[kColumnMasks];
};

// Uses of the rings are counted modulo a number after which every ring is in the same slot and parity again.
inline constexpr int kUsePeriod = 96;
__device__ __forceinline__ int use_after(int use, int steps) {
  return static_cast<int>(static_cast<unsigned>(use + steps) % kUsePeriod);
}

// The n-th use of a ring of `Slots` buffers, n < kUsePeriod.
template <int Slots>
struct RingPosition {
  static_assert(kUsePeriod % (2 * Slots) == 0);
  int slot;
  std::uint32_t parity;

  __device__ __forceinline__ explicit RingPosition(int n) {
    constexpr int kReciprocal = (1024 + Slots - 1) / Slots;  // gives n / Slots exactly, for such n
    const int round = n * kReciprocal >> 10;
    slot = n - round * Slots;
    parity = static_cast<std::uint32_t>(round & 1);
  }
};

}  // namespace minference::kernels::cuda::sm90
