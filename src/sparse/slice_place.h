#pragma once

#include <algorithm>
#include <cstdint>

#include "sparse/sparse_index.h"

// Shared by the files of this folder only: keys_of_slice() lists what the counts sum up.
namespace minference::sparse {

// Where a row slice stands among the keys.
struct SlicePlace {
  std::int64_t origin;       // position of the row block's first row
  std::int64_t first, last;  // positions of the slice's first and last row
  std::int64_t key_end;      // no row of the slice attends to a key at or after it
};

inline SlicePlace place_of(const SparseIndex& index, const RowSlice& slice) {
  const std::int64_t last = position_of_row(index.q_len, index.kv_len, slice.end - 1);
  return {.origin = position_of_row(index.q_len, index.kv_len, slice.block * kRowBlock),
          .first = position_of_row(index.q_len, index.kv_len, slice.begin),
          .last = last,
          .key_end = index.causal ? std::min(index.kv_len, last + 1) : index.kv_len};
}

struct KeyRange {
  std::int64_t begin, end;  // empty when end <= begin
};

// The keys that some row of the slice reaches by the window or as the sink: disjoint, `sink` left of
// `window`. Where the two touch they are one range, the window.
struct WindowRanges {
  KeyRange window, sink;
};

inline WindowRanges window_ranges(const HeadIndex& head, const SlicePlace& place) {
  const std::int64_t sink_end = std::min(head.sink, place.key_end);
  const std::int64_t begin = std::max<std::int64_t>(place.first - head.local + 1, 0);
  const std::int64_t end = head.local == 0 ? begin : std::min(place.last + head.local, place.key_end);
  if (begin <= sink_end) return {.window = {0, std::max(end, sink_end)}, .sink = {0, 0}};
  return {.window = {begin, end}, .sink = {0, sink_end}};
}

}  // namespace minference::sparse
