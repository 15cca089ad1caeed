#pragma once

#include <cstdint>

#include "base/host_device.h"

// Columns and offsets as bitmaps: bit i % 32 of word i / 32 says whether i is a member.
namespace minference::sparse {

// Words for members below `kv_len`: whole words of 64.
MINFERENCE_HD constexpr std::int64_t member_words(std::int64_t kv_len) {
  return (kv_len + 63) / 64 * 2;
}

// The lowest `count` bits; none below 0, all from 32 on.
MINFERENCE_HD constexpr std::uint32_t bits_below(std::int64_t count) {
  return count <= 0 ? 0 : count >= 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << count) - 1;
}

}  // namespace minference::sparse
