#pragma once

#include "base/arithmetic.h"
#include "base/host_device.h"
#include "sparse/rules.h"

// Closed forms of what a relative index computes, member by member: CPU and CUDA code sum them up.
namespace minference::sparse {

// Sum of clamp(first + i, low, high) over 0 <= i < count; low <= high.
MINFERENCE_HD constexpr std::int64_t sum_of_clamp(std::int64_t first, std::int64_t count, std::int64_t low,
                                                  std::int64_t high) {
  const std::int64_t below = base::clamp<std::int64_t>(low - first, 0, count);
  const std::int64_t above = base::clamp<std::int64_t>(first + count - high, 0, count - below);
  const std::int64_t between = count - below - above;
  const std::int64_t begin = first + below;
  return below * low + above * high + between * begin + between * (between - 1) / 2;
}

// Pairs of the queries at positions [q_begin, q_begin + rows) and keys [k_begin, k_end).
MINFERENCE_HD constexpr std::int64_t pairs_of_rectangle(std::int64_t q_begin, std::int64_t rows,
                                                        std::int64_t k_begin, std::int64_t k_end,
                                                        bool causal) {
  if (rows <= 0 || k_begin >= k_end) return 0;
  if (!causal) return rows * (k_end - k_begin);
  return sum_of_clamp(q_begin + 1, rows, k_begin, k_end) - rows * k_begin;
}

// How many whole row blocks lie in `rows` rows, rounded down; negative for rows before the first.
MINFERENCE_HD constexpr std::int64_t floor_of_blocks(std::int64_t rows) {
  return (rows >= 0 ? rows : rows - kRowBlock + 1) / kRowBlock;
}

// Row blocks [begin, end) of `rows` rows each, the first at position `position`.
struct BlockRun {
  std::int64_t begin, end;
  std::int64_t rows;
  std::int64_t position;
};

// Tiles of a relative index, in a list of their starts, descending. Borrowed.
class TileList {
 public:
  MINFERENCE_HD constexpr TileList(const std::int32_t* starts, std::int64_t count)
      : starts_(starts), count_(count) {}

  // How many begin above `start`.
  MINFERENCE_HD constexpr std::int64_t above(std::int64_t start) const {
    std::int64_t low = 0, high = count_;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (starts_[middle] > start) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  const std::int32_t* starts_;
  std::int64_t count_;
};

// What an index computes of a column outside all tiles: in how many row slices, and how many pairs.
struct ColumnCount {
  std::int64_t slices, pairs;
};

// A relative index over the first `sparse_rows` rows of a call. Tiles: as TileList.
template <class Tiles>
class RelativeCounter {
 public:
  MINFERENCE_HD constexpr RelativeCounter(std::int64_t q_len, std::int64_t kv_len, bool causal,
                                          std::int64_t sparse_rows, Tiles tiles)
      : tiles_(tiles),
        origin_(position_of_row(q_len, kv_len, 0)),
        kv_len_(kv_len),
        causal_(causal),
        full_{0, sparse_rows / kRowBlock, kRowBlock, origin_},
        rest_{full_.end, full_.end + (sparse_rows % kRowBlock > 0), sparse_rows % kRowBlock,
              origin_ + full_.end * kRowBlock} {}

  MINFERENCE_HD constexpr std::int64_t pairs_of_tile(std::int64_t start) const {
    return pairs_of_tile(full_, start) + pairs_of_tile(rest_, start);
  }
  MINFERENCE_HD constexpr ColumnCount count_of_column(std::int64_t column) const {
    const ColumnCount full = count_of_column(full_, column), rest = count_of_column(rest_, column);
    return {full.slices + rest.slices, full.pairs + rest.pairs};
  }

  MINFERENCE_HD constexpr std::int64_t row_slices() const { return rest_.end; }
  // Row slices that compute some key of the tile, or of a run of tiles from the lowest to the highest start.
  MINFERENCE_HD constexpr std::int64_t slices_with_tile(std::int64_t start) const {
    return slices_with_run(start, start);
  }
  MINFERENCE_HD constexpr std::int64_t slices_with_run(std::int64_t lowest, std::int64_t highest) const {
    return blocks_with_run(full_, lowest, highest) + blocks_with_run(rest_, lowest, highest);
  }

 private:
  // The row block whose tile at relative key `start` holds `key`. A tile moves by its own width from one row
  // block to the next, so there is exactly one, perhaps before or after the call; and tiles are disjoint, so
  // two never share it.
  MINFERENCE_HD constexpr std::int64_t block_where(std::int64_t start, std::int64_t key) const {
    return floor_of_blocks(key - start - origin_);
  }

  // Tiles whose row block with `key` comes before `block`.
  MINFERENCE_HD constexpr std::int64_t tiles_before(std::int64_t block, std::int64_t key) const {
    return tiles_.above(key - origin_ - block * kRowBlock);
  }

  MINFERENCE_HD constexpr std::int64_t pairs_of_tile(const BlockRun& run, std::int64_t start) const {
    // The tiles of a run's row blocks lie side by side: together they are one range of keys.
    const std::int64_t blocks = run.end - run.begin;
    const std::int64_t begin = run.position + start, end = begin + blocks * kKeyTile;
    if (!causal_) return run.rows * (clamp_to_keys(end) - clamp_to_keys(begin));
    const std::int64_t right_of_diagonal =
        run.rows * kKeyTile - pairs_of_rectangle(0, run.rows, start, start + kKeyTile, true);
    return run.rows * (base::max<std::int64_t>(end, 0) - base::max<std::int64_t>(begin, 0)) -
           blocks * right_of_diagonal;
  }

  MINFERENCE_HD constexpr std::int64_t blocks_with_run(const BlockRun& run, std::int64_t lowest,
                                                       std::int64_t highest) const {
    return base::clamp(block_where(lowest, kv_len_ - 1) + 1, run.begin, run.end) -
           base::clamp(block_where(highest, 0), run.begin, run.end);
  }

  // The first row block of a run whose last row stands at or after the column; the run's end if none does.
  MINFERENCE_HD constexpr std::int64_t first_block_with(const BlockRun& run, std::int64_t column) const {
    if (!causal_) return run.begin;
    const std::int64_t blocks = floor_of_blocks(column - run.position - run.rows + kRowBlock);
    return base::clamp(run.begin + blocks, run.begin, run.end);
  }

  MINFERENCE_HD constexpr ColumnCount count_of_column(const BlockRun& run, std::int64_t column) const {
    const std::int64_t first = first_block_with(run, column);
    if (first == run.end) return {0, 0};
    const std::int64_t before_first = tiles_before(first, column);
    const std::int64_t slices = run.end - first - (tiles_before(run.end, column) - before_first);
    // Of the first row block, some rows may stand before the column.
    const std::int64_t position = run.position + (first - run.begin) * kRowBlock;
    const std::int64_t rows_before = causal_ ? base::max<std::int64_t>(column - position, 0) : 0;
    if (rows_before == 0) return {slices, run.rows * slices};
    const std::int64_t first_slices = 1 - (tiles_before(first + 1, column) - before_first);
    return {slices, run.rows * slices - rows_before * first_slices};
  }

  MINFERENCE_HD constexpr std::int64_t clamp_to_keys(std::int64_t key) const {
    return base::clamp<std::int64_t>(key, 0, kv_len_);
  }

  Tiles tiles_;
  std::int64_t origin_, kv_len_;
  bool causal_;
  BlockRun full_, rest_;  // whole row blocks, and the last one where the sparse rows cut it
};

}  // namespace minference::sparse
