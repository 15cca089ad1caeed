#pragma once

#include "base/host_device.h"

// Which keys of a tile a row may attend to: the rules behind the masks of the attention kernels, for the
// host's tests too. A tile may begin before key 0, where the copy engine reads zeros, and end behind the last
// key.
namespace minference::kernels::cuda {

// A window head's rule; local -1: no window, every key up to the row's own position.
struct WindowRule {
  int local, sink;
};

// The keys of one row, counted from `first_key` on: two ranges, each as its begin and its length, so that one
// unsigned comparison says whether it holds a key.
struct VisibleKeys {
  int begin;
  unsigned length;
  int sink_begin;
  unsigned sink_length;

  // position: the row's; its keys are max(0, position - local + 1) to position, and those before `sink`.
  static MINFERENCE_HD constexpr VisibleKeys of(int position, WindowRule window, int first_key) {
    const int oldest = position - window.local + 1;
    const int begin = window.local < 0 || oldest < 0 ? 0 : oldest;
    const int sink = window.sink <= position ? window.sink : position + 1;
    return {begin - first_key, static_cast<unsigned>(position + 1 - begin), -first_key,
            static_cast<unsigned>(sink)};
  }

  // Without the causal rule: keys at a distance below `local` and those before `sink`, all before kv_len.
  static MINFERENCE_HD constexpr VisibleKeys of_both_sides(int position, WindowRule window, int kv_len) {
    const int begin = window.local < 0 || position - window.local + 1 < 0 ? 0 : position - window.local + 1;
    const int end = window.local < 0 || position + window.local > kv_len ? kv_len : position + window.local;
    return {begin, static_cast<unsigned>(end > begin ? end - begin : 0), 0,
            static_cast<unsigned>(window.sink < kv_len ? window.sink : kv_len)};
  }

  MINFERENCE_HD constexpr bool holds(int key) const {
    return static_cast<unsigned>(key - begin) < length ||
           static_cast<unsigned>(key - sink_begin) < sink_length;
  }
};

// Whether each of `rows` rows from `position` on may attend to all of the keys [start, start + count).
MINFERENCE_HD constexpr bool sees_all(int position, int rows, WindowRule window, int start, int count) {
  const int last = start + count - 1;
  const bool in_window = window.local < 0 || start > position + rows - 1 - window.local || last < window.sink;
  return start >= 0 && last <= position && in_window;
}

MINFERENCE_HD constexpr bool sees_all_on_both_sides(int position, int rows, WindowRule window, int start,
                                                    int count, int kv_len) {
  const int last = start + count - 1;
  const bool in_window = window.local < 0 || last < window.sink ||
                         (start > position + rows - 1 - window.local && last < position + window.local);
  return start >= 0 && last < kv_len && in_window;
}

}  // namespace minference::kernels::cuda
