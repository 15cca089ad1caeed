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

// The bits of one tile: those of words first_word to first_word + 2. A word outside the bitmap has none.
struct CoverBits {
  std::int64_t first_word;
  std::uint32_t bits[3];

  // start: of the tile, relative to a row block; above -kv_len - 64.
  static MINFERENCE_HD constexpr CoverBits of_tile(std::int64_t kv_len, std::int64_t start) {
    const std::int64_t first_word = (kv_len + start + sparse::kKeyTile) / 32 - 2, words = cover_words(kv_len);
    const auto shift = static_cast<int>(kv_len + start - 32 * first_word);
    CoverBits cover{first_word,
                    {0xffffffffu << shift, 0xffffffffu, shift == 0 ? 0 : 0xffffffffu >> (32 - shift)}};
    for (int i = 0; i < 3; ++i) {
      if (first_word + i < 0 || first_word + i >= words) cover.bits[i] = 0;
    }
    return cover;
  }
};

MINFERENCE_HD constexpr bool covers(const std::uint32_t* cover, std::int64_t kv_len,
                                    std::int64_t key_behind_block) {
  const std::int64_t bit = kv_len + key_behind_block;
  return (cover[bit / 32] >> (bit % 32) & 1u) != 0;
}

}  // namespace minference::kernels::cuda
