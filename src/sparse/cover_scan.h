#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "sparse/rules.h"

// cover.h's rule as a walk over a bitmap of offsets, for code that walks many stretches of it at once.
//
// Let u be the offset at which the latest tile begins: the tile is [-u, -u + 64), and it and those before it
// cover every band of an offset s <= u. With s the next offset above u, the next tile begins at u + 64 if
// s <= u + 64, and at s otherwise. Tiles are 64 apart at least, so that each word of 64 offsets [64 w, 64 w +
// 64) holds one u at most, and all that the walk knows before word w is whether word w - 1 holds one, and
// which.
namespace minference::sparse {

// Where the last tile begins within a word of 64 offsets, 0 .. 63, or kNoTile where none begins in it.
using CoverState = std::int32_t;
inline constexpr CoverState kNoTile = 64;
inline constexpr std::int32_t kCoverStates = 65;

// The number of words in which a tile for offsets below `kv_len` can begin.
MINFERENCE_HD constexpr std::int64_t cover_words(std::int64_t kv_len) {
  return kv_len == 0 ? 0 : (kv_len + kKeyTile - 2) / kKeyTile + 1;
}

// What one step of the walk needs of the bitmap.
struct CoverWord {
  std::int32_t last_before;  // the largest offset of the word before, 0 .. 63; -1: it has none
  std::int32_t first;        // the smallest offset of the word; 64: it has none

  // The state behind this word from the one before it. A tile that begins at r of the word before is
  // followed by one at r of this word where an offset above r there, or up to r here, is left to cover.
  MINFERENCE_HD constexpr CoverState next(CoverState state) const {
    const bool follows = state != kNoTile && (last_before > state || first <= state);
    return follows ? state : first;
  }
};

// The tiles of a finished walk, to be looked up: for each word, how many tiles begin before it, and its state.
// Borrowed.
class TileTable {
 public:
  static MINFERENCE_HD constexpr std::uint32_t entry(std::int32_t tiles_before, CoverState state) {
    return static_cast<std::uint32_t>(tiles_before) << kStateBits | static_cast<std::uint32_t>(state);
  }

  MINFERENCE_HD constexpr TileTable(const std::uint32_t* entries, std::int64_t num_words,
                                    std::int64_t num_tiles)
      : entries_(entries), num_words_(num_words), num_tiles_(num_tiles) {}

  // How many begin above `start`.
  MINFERENCE_HD constexpr std::int64_t above(std::int64_t start) const {
    if (start >= 0) return 0;
    const auto offset = static_cast<std::uint64_t>(-start);
    const auto word = static_cast<std::int64_t>(offset / kKeyTile);
    if (word >= num_words_) return num_tiles_;
    const std::uint32_t entry = entries_[word];
    return (entry >> kStateBits) + ((entry & kStateMask) < offset % kKeyTile);
  }

 private:
  static constexpr int kStateBits = 7;  // states up to kNoTile; 2^25 words of kMaxLength offsets
  static constexpr std::uint32_t kStateMask = (1u << kStateBits) - 1;

  const std::uint32_t* entries_;
  std::int64_t num_words_, num_tiles_;
};

}  // namespace minference::sparse
