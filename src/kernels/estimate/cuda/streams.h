#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"
#include "kernels/estimate/cuda/warp_sums.h"

namespace minference::kernels::cuda {

// How the keys of a call are cut into streams, one a warp: by kv_len alone, so that the order of every sum is
// the same on all devices. All streams but the last have stream_keys keys, at least 64: a diagonal then
// crosses two of them at most.
struct Streams {
  std::int32_t kv_len;
  std::int32_t stream_keys;
  std::int32_t count;

  static constexpr Streams of(std::int64_t kv_len) {
    // Enough warps for a large device from short calls on, and long streams beyond, whose ends cost less.
    constexpr std::int64_t kMinKeys = 128, kMaxKeys = 1024, kWanted = 128;
    const std::int64_t keys =
        base::clamp(base::round_up<std::int64_t>(base::divide_up(kv_len, kWanted), 64), kMinKeys, kMaxKeys);
    return {static_cast<std::int32_t>(kv_len), static_cast<std::int32_t>(keys),
            static_cast<std::int32_t>(base::divide_up(kv_len, keys))};
  }

  MINFERENCE_HD constexpr std::int32_t begin(std::int32_t stream) const { return stream * stream_keys; }
  // At most begin() for streams behind the last.
  MINFERENCE_HD constexpr std::int32_t end(std::int32_t stream) const {
    return base::min(begin(stream) + stream_keys, kv_len);
  }
};

// Where the diagonal sum that comes out beside key `key` of a stream belongs (PairSums): key - 64 keys from
// the row's place is offset kv_len - key. The stream owns those that begin before its last 63 keys; the
// others go on in the next stream.
struct DiagonalPlace {
  std::int32_t offset;  // owned: of diagonal_sums
  std::int32_t carry;   // otherwise, of the stream's 63 carries; -1: none
  bool owned;

  static MINFERENCE_HD constexpr DiagonalPlace of(std::int32_t key, std::int32_t begin, std::int32_t end,
                                                  std::int32_t kv_len) {
    const bool owned = key > begin && key <= end;
    const bool carried = key > end && key < end + kQueryRows && key <= kv_len;
    return {kv_len - key, carried ? key - end - 1 : -1, owned};
  }
};

}  // namespace minference::kernels::cuda
