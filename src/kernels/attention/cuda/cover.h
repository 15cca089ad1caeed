#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"
#include "sparse/rules.h"

// The cover of a relative head: a bitmap that says which keys its tiles hold, relative to a row block, and so
// the same for all of them. Bit kv_len + r: the key r behind the row block's first row lies in a tile.
namespace minference::kernels::cuda {

// For r from -kv_len to 63: causal rows see no further.
MINFERENCE_HD constexpr std::int64_t cover_words(std::int64_t kv_len) {
  return base::divide_up<std::int64_t>(kv_len + sparse::kRowBlock, 32);
}

// Calls set(word, bits) for the words that hold bits of the tile from `start` on, three at most.
template <class Set>
MINFERENCE_HD constexpr void cover_tile(std::int64_t kv_len, std::int64_t start, Set&& set) {
  const std::int64_t begin = kv_len + start, end = begin + sparse::kKeyTile, words = cover_words(kv_len);
  for (std::int64_t bit = base::max<std::int64_t>(begin, 0); bit < end; bit = (bit / 32 + 1) * 32) {
    const std::int64_t word_end = base::min((bit / 32 + 1) * 32, end);
    if (bit / 32 < words) set(bit / 32, 0xffffffffu >> (32 - (word_end - bit)) << (bit % 32));
  }
}

MINFERENCE_HD constexpr bool covers(const std::uint32_t* cover, std::int64_t kv_len,
                                    std::int64_t key_behind_block) {
  const std::int64_t bit = kv_len + key_behind_block;
  return (cover[bit / 32] >> (bit % 32) & 1u) != 0;
}

}  // namespace minference::kernels::cuda
