#pragma once

#include <cstdint>

#include "base/host_device.h"

// Which keys of a tile a row may attend to: the rules behind the masks of the attention kernels, for the
// host's tests too. A tile may begin before key 0, where the copy engine reads zeros, and end behind the last
// key.
namespace minference::kernels::cuda {

// A window head's rule; local -1: no window.
struct WindowRule {
  int local, sink;
};

// The first key that a row may not see, whatever its window.
MINFERENCE_HD constexpr int key_limit(bool causal, int position, int kv_len) {
  return causal ? position + 1 : kv_len;
}

// The keys of one row, counted from `first_key` on: two ranges, each as its begin and its length, so that one
// unsigned comparison says whether it holds a key.
struct VisibleKeys {
  int begin;
  unsigned length;
  int sink_begin;
  unsigned sink_length;

  // position: the row's; its keys lie before `limit`, and are nearer than `local` or before `sink`.
  static MINFERENCE_HD constexpr VisibleKeys of(int position, WindowRule window, int limit, int first_key) {
    const int oldest = position - window.local + 1, behind = position + window.local;
    const int begin = window.local < 0 || oldest < 0 ? 0 : oldest;
    const int end = window.local < 0 || behind > limit ? limit : behind;
    const int sink = window.sink <= limit ? window.sink : limit;
    return {begin - first_key, static_cast<unsigned>(end > begin ? end - begin : 0), -first_key,
            static_cast<unsigned>(sink)};
  }

  MINFERENCE_HD constexpr bool holds(int key) const {
    return static_cast<unsigned>(key - begin) < length ||
           static_cast<unsigned>(key - sink_begin) < sink_length;
  }

  // Bit 4 j + e, j < 8, e < 2: whether it holds key 8 j + e. Those are a thread's keys of a row in the results of matrix
  // instructions.
  MINFERENCE_HD constexpr std::uint32_t pairs() const {
    return pairs_from_to(begin, length) | pairs_from_to(sink_begin, sink_length);
  }

 private:
  static MINFERENCE_HD constexpr std::uint32_t pairs_from_to(int begin, unsigned length) {
    return pairs_before(begin + static_cast<int>(length)) & ~pairs_before(begin);
  }
  static MINFERENCE_HD constexpr std::uint32_t pairs_before(int key) {
    return (0x11111111u & low_nibbles((key + 7) >> 3)) | (0x22222222u & low_nibbles((key + 6) >> 3));
  }
  static MINFERENCE_HD constexpr std::uint32_t low_nibbles(int count) {
    return count >= 8 ? ~0u : count <= 0 ? 0u : (1u << 4 * count) - 1;
  }
};

// Whether each of `rows` rows from `position` on may attend to all of the keys [start, start + count). limit: of the
// first row.
MINFERENCE_HD constexpr bool sees_all(int position, int rows, WindowRule window, int limit, int start,
                                      int count) {
  const int last = start + count - 1;
  const bool in_window = window.local < 0 || last < window.sink ||
                         (start > position + rows - 1 - window.local && last < position + window.local);
  return start >= 0 && last < limit && in_window;
}

}  // namespace minference::kernels::cuda
