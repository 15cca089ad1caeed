#include <algorithm>

#include "sparse/relative_count.h"
#include "sparse/slice_place.h"

// Closed forms of what keys_of_slice() lists, summed over a head's row slices.
namespace minference::sparse {
namespace {

std::int64_t pairs_of_window(const HeadIndex& head, std::int64_t q_begin, std::int64_t rows,
                             std::int64_t kv_len, bool causal) {
  const std::int64_t sink = std::min(head.sink, kv_len);
  const std::int64_t in_sink = pairs_of_rectangle(q_begin, rows, 0, sink, causal);
  if (head.local == 0) return in_sink;
  // Query q's window is keys [q - local + 1, q + ahead), cut to [sink, kv_len).
  const std::int64_t ahead = causal ? 1 : head.local;
  return in_sink + sum_of_clamp(q_begin + ahead, rows, sink, kv_len) -
         sum_of_clamp(q_begin - head.local + 1, rows, sink, kv_len);
}

constexpr std::int64_t tiles_of(KeyRange keys) {
  return keys.end > keys.begin ? (keys.end - keys.begin + kKeyTile - 1) / kKeyTile : 0;
}

RelativeCounter<TileList> counter_of(const SparseIndex& index, const HeadIndex& head) {
  return {index.q_len, index.kv_len, index.causal, first_dense_row(index.q_len, head.last_dense_rows),
          TileList(head.tiles.data(), std::ssize(head.tiles))};
}

std::int64_t pairs_of_relative(const SparseIndex& index, const HeadIndex& head) {
  const RelativeCounter<TileList> counter = counter_of(index, head);
  std::int64_t pairs = 0;
  for (const std::int32_t start : head.tiles) pairs += counter.pairs_of_tile(start);
  for (const std::int32_t column : head.columns) pairs += counter.count_of_column(column).pairs;
  return pairs;
}

HeadWork work_of_relative(const SparseIndex& index, const HeadIndex& head) {
  const RelativeCounter<TileList> counter = counter_of(index, head);
  HeadWork work{.row_slices = counter.row_slices()};
  for (std::size_t i = 0; i < head.tiles.size();) {
    const std::int32_t highest = head.tiles[i];
    std::int32_t lowest = highest;
    for (; i < head.tiles.size() && head.tiles[i] >= lowest - kKeyTile; ++i) {
      lowest = head.tiles[i];
      work.tiles += counter.slices_with_tile(lowest);
    }
    work.runs += counter.slices_with_run(lowest, highest);
  }
  for (const std::int32_t column : head.columns) work.columns += counter.count_of_column(column).slices;
  return work;
}

std::int64_t pairs_of_blocks(const SparseIndex& index, const HeadIndex& head, std::int64_t sparse_rows) {
  std::int64_t pairs = 0;
  for (std::int64_t b = 0; b * kRowBlock < sparse_rows; ++b) {
    const std::int64_t rows = std::min(kRowBlock, sparse_rows - b * kRowBlock);
    const std::int64_t position = position_of_row(index.q_len, index.kv_len, b * kRowBlock);
    for (std::int64_t i = head.row_offsets[b]; i < head.row_offsets[b + 1]; ++i) {
      const std::int64_t begin = head.key_blocks[i] * kKeyTile;
      pairs +=
          pairs_of_rectangle(position, rows, begin, std::min(begin + kKeyTile, index.kv_len), index.causal);
    }
  }
  return pairs;
}

std::int64_t tiles_of_slice(const SparseIndex& index, const HeadIndex& head, const RowSlice& slice) {
  const SlicePlace place = place_of(index, slice);
  if (slice.dense || head.form == IndexForm::all) return tiles_of({0, place.key_end});
  if (head.form == IndexForm::window) {
    const auto [window, sink] = window_ranges(head, place);
    return tiles_of(window) + tiles_of(sink);
  }
  const auto* begin = head.key_blocks.data() + head.row_offsets[slice.block];
  const auto* end = head.key_blocks.data() + head.row_offsets[slice.block + 1];
  return std::lower_bound(begin, end, tiles_of({0, place.key_end})) - begin;
}

}  // namespace

std::int64_t count_pairs(const SparseIndex& index, std::int64_t head_index) {
  const HeadIndex& head = index.heads[head_index];
  const std::int64_t sparse_rows = first_dense_row(index.q_len, head.last_dense_rows);
  const std::int64_t position = position_of_row(index.q_len, index.kv_len, 0);
  const auto all_pairs = [&](std::int64_t begin, std::int64_t end) {
    return pairs_of_rectangle(position + begin, end - begin, 0, index.kv_len, index.causal);
  };
  const std::int64_t dense = all_pairs(sparse_rows, index.q_len);
  switch (head.form) {
    case IndexForm::all:
      return dense + all_pairs(0, sparse_rows);
    case IndexForm::relative:
      return dense + pairs_of_relative(index, head);
    case IndexForm::window:
      return dense + pairs_of_window(head, position, sparse_rows, index.kv_len, index.causal);
    case IndexForm::blocks:
      return dense + pairs_of_blocks(index, head, sparse_rows);
  }
  return dense;
}

std::int64_t count_all_pairs(std::int64_t q_len, std::int64_t kv_len, bool causal) {
  return pairs_of_rectangle(position_of_row(q_len, kv_len, 0), q_len, 0, kv_len, causal);
}

HeadWork work_of(const SparseIndex& index, std::int64_t head_index) {
  const HeadIndex& head = index.heads[head_index];
  HeadWork work;
  if (head.form == IndexForm::relative) work = work_of_relative(index, head);
  for (const RowSlice& slice : row_slices(index.q_len, head.last_dense_rows)) {
    if (head.form == IndexForm::relative && !slice.dense) continue;
    ++work.row_slices;
    work.tiles += tiles_of_slice(index, head, slice);
  }
  return work;
}

}  // namespace minference::sparse
