#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"
#include "sparse/relative_count.h"
#include "sparse/rules.h"
#include "sparse/sparse_index.h"

namespace minference::sparse {

// What a causal block-sparse head must keep for one row block, and how much it keeps: a rule of shapes alone.
// Key blocks that no forced one is lie before the row block's first row, whole.
struct BlockList {
  std::int32_t candidates;      // key blocks [0, candidates) have a causal pair
  std::int32_t diagonal_begin;  // [diagonal_begin, candidates) and block 0 are forced
  std::int32_t forced;
  std::int32_t kept;  // forced ones included

  static MINFERENCE_HD constexpr BlockList of(std::int64_t q_len, std::int64_t kv_len, std::int64_t row_block,
                                              std::int64_t top_k) {
    const std::int64_t begin = row_block * kRowBlock, end = base::min(begin + kRowBlock, q_len);
    const std::int64_t candidates = position_of_row(q_len, kv_len, end - 1) / kKeyTile + 1;
    const std::int64_t diagonal = position_of_row(q_len, kv_len, begin) / kKeyTile;
    const std::int64_t forced = candidates - diagonal + (diagonal > 0);
    const std::int64_t kept = base::min(candidates, base::max(top_k, forced));
    return {static_cast<std::int32_t>(candidates), static_cast<std::int32_t>(diagonal),
            static_cast<std::int32_t>(forced), static_cast<std::int32_t>(kept)};
  }

  MINFERENCE_HD constexpr bool is_forced(std::int32_t block) const {
    return block == 0 || block >= diagonal_begin;
  }
};

// What work_of() and count_pairs() say of such a head. Which key blocks a row block chooses changes neither: all
// that it may choose are whole.
struct BlockWork {
  std::int64_t row_slices = 0;
  std::int64_t tiles = 0;
  std::int64_t pairs = 0;
};

inline BlockWork work_of_blocks(std::int64_t q_len, std::int64_t kv_len, std::int64_t top_k,
                                std::int64_t last_dense_rows) {
  BlockWork work;
  for (const RowSlice& slice : row_slices(q_len, last_dense_rows)) {
    const std::int64_t rows = slice.end - slice.begin, first = position_of_row(q_len, kv_len, slice.begin);
    const BlockList list = BlockList::of(q_len, kv_len, slice.block, top_k);
    // Those before the diagonal's, and from where on every key is computed.
    const std::int64_t whole = slice.dense ? 0 : list.kept - (list.candidates - list.diagonal_begin);
    const std::int64_t diagonal = slice.dense ? 0 : list.diagonal_begin;
    ++work.row_slices;
    work.tiles += whole + (first + rows - 1) / kKeyTile + 1 - diagonal;
    work.pairs +=
        whole * kKeyTile * rows + pairs_of_rectangle(first, rows, diagonal * kKeyTile, kv_len, true);
  }
  return work;
}

}  // namespace minference::sparse
