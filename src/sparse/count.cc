#include <algorithm>

#include "sparse/slice_place.h"

// Closed forms of what keys_of_slice() lists, summed over a head's row slices.
namespace minference::sparse {
namespace {

// Sum of clamp(first + i, low, high) over 0 <= i < count; low <= high.
std::int64_t sum_of_clamp(std::int64_t first, std::int64_t count, std::int64_t low, std::int64_t high) {
  const std::int64_t below = std::clamp<std::int64_t>(low - first, 0, count);
  const std::int64_t above = std::clamp<std::int64_t>(first + count - high, 0, count - below);
  const std::int64_t between = count - below - above;
  const std::int64_t begin = first + below;
  return below * low + above * high + between * begin + between * (between - 1) / 2;
}

// Pairs of the queries at positions [q_begin, q_begin + rows) and keys [k_begin, k_end).
std::int64_t pairs_of_rectangle(std::int64_t q_begin, std::int64_t rows, std::int64_t k_begin,
                                std::int64_t k_end, bool causal) {
  if (rows <= 0 || k_begin >= k_end) return 0;
  if (!causal) return rows * (k_end - k_begin);
  return sum_of_clamp(q_begin + 1, rows, k_begin, k_end) - rows * k_begin;
}

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

// How many whole row blocks lie in `rows` rows, rounded down; negative for rows before the first.
constexpr std::int64_t floor_of_blocks(std::int64_t rows) {
  return (rows >= 0 ? rows : rows - kRowBlock + 1) / kRowBlock;
}

constexpr std::int64_t tiles_of(KeyRange keys) {
  return keys.end > keys.begin ? (keys.end - keys.begin + kKeyTile - 1) / kKeyTile : 0;
}

// Row blocks [begin, end) of `rows` rows each, the first at position `position`.
struct BlockRun {
  std::int64_t begin, end;
  std::int64_t rows;
  std::int64_t position;
};

// A relative index over the first `sparse_rows` rows of the call.
class RelativeCounter {
 public:
  RelativeCounter(const SparseIndex& index, const HeadIndex& head, std::int64_t sparse_rows)
      : head_(head),
        origin_(position_of_row(index.q_len, index.kv_len, 0)),
        kv_len_(index.kv_len),
        causal_(index.causal) {
    const std::int64_t full = sparse_rows / kRowBlock, rest = sparse_rows % kRowBlock;
    runs_[0] = {0, full, kRowBlock, origin_};
    runs_[1] = {full, full + (rest > 0), rest, origin_ + full * kRowBlock};
  }

  std::int64_t pairs() const {
    std::int64_t pairs = 0;
    for (const BlockRun& run : runs_) {
      for (const std::int32_t start : head_.tiles) pairs += pairs_of_tile(run, start);
      for (const std::int32_t column : head_.columns) pairs += pairs_of_column(run, column);
    }
    return pairs;
  }

  HeadWork work() const {
    HeadWork work;
    for (const BlockRun& run : runs_) {
      work.row_slices += run.end - run.begin;
      for (const std::int32_t start : head_.tiles) work.tiles += blocks_with_tile(run, start);
      for (const std::int32_t column : head_.columns) work.columns += blocks_with_column(run, column);
    }
    return work;
  }

 private:
  // The row block whose tile at relative key `start` holds `key`. A tile moves by its own width from one row
  // block to the next, so there is exactly one, perhaps before or after the call; and tiles are disjoint, so
  // two never share it.
  std::int64_t block_where(std::int64_t start, std::int64_t key) const {
    return floor_of_blocks(key - start - origin_);
  }

  // Row blocks in [begin, end) that have `key` in a tile.
  std::int64_t blocks_covering(std::int64_t key, std::int64_t begin, std::int64_t end) const {
    const auto tiles_before = [&](std::int64_t block) {
      return std::partition_point(head_.tiles.begin(), head_.tiles.end(),
                                  [&](std::int32_t start) { return block_where(start, key) < block; });
    };
    return begin < end ? tiles_before(end) - tiles_before(begin) : 0;
  }

  std::int64_t pairs_of_tile(const BlockRun& run, std::int64_t start) const {
    // The tiles of a run's row blocks lie side by side: together they are one range of keys.
    const std::int64_t blocks = run.end - run.begin;
    const std::int64_t begin = run.position + start, end = begin + blocks * kKeyTile;
    if (!causal_) return run.rows * (clamp_to_keys(end) - clamp_to_keys(begin));
    const std::int64_t right_of_diagonal =
        run.rows * kKeyTile - pairs_of_rectangle(0, run.rows, start, start + kKeyTile, true);
    return run.rows * (std::max<std::int64_t>(end, 0) - std::max<std::int64_t>(begin, 0)) -
           blocks * right_of_diagonal;
  }

  std::int64_t blocks_with_tile(const BlockRun& run, std::int64_t start) const {
    return std::clamp(block_where(start, kv_len_ - 1) + 1, run.begin, run.end) -
           std::clamp(block_where(start, 0), run.begin, run.end);
  }

  std::int64_t pairs_of_column(const BlockRun& run, std::int64_t column) const {
    const auto uncovered = [&](std::int64_t begin, std::int64_t end) {
      return std::max<std::int64_t>(end - begin, 0) - blocks_covering(column, begin, end);
    };
    if (!causal_) return run.rows * uncovered(run.begin, run.end);
    // All rows of the row blocks from `below` on stand at or after the column; of the one before, some may.
    const std::int64_t below =
        std::clamp(run.begin + floor_of_blocks(column - run.position + kRowBlock - 1), run.begin, run.end);
    std::int64_t pairs = run.rows * uncovered(below, run.end);
    if (below > run.begin) {
      const std::int64_t rows = run.position + (below - 1 - run.begin) * kRowBlock + run.rows - column;
      if (rows > 0) pairs += rows * uncovered(below - 1, below);
    }
    return pairs;
  }

  std::int64_t blocks_with_column(const BlockRun& run, std::int64_t column) const {
    std::int64_t begin = run.begin;
    if (causal_) {
      // The first row block whose last row stands at or after the column.
      begin += floor_of_blocks(column - run.position - run.rows + kRowBlock);
      begin = std::clamp(begin, run.begin, run.end);
    }
    return run.end - begin - blocks_covering(column, begin, run.end);
  }

  std::int64_t clamp_to_keys(std::int64_t key) const { return std::clamp<std::int64_t>(key, 0, kv_len_); }

  const HeadIndex& head_;
  std::int64_t origin_, kv_len_;
  bool causal_;
  BlockRun runs_[2];
};

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
      return dense + RelativeCounter(index, head, sparse_rows).pairs();
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
  if (head.form == IndexForm::relative) {
    work = RelativeCounter(index, head, first_dense_row(index.q_len, head.last_dense_rows)).work();
  }
  for (const RowSlice& slice : row_slices(index.q_len, head.last_dense_rows)) {
    if (head.form == IndexForm::relative && !slice.dense) continue;
    ++work.row_slices;
    work.tiles += tiles_of_slice(index, head, slice);
  }
  return work;
}

}  // namespace minference::sparse
