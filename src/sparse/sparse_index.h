#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sparse/rules.h"

namespace minference::sparse {

// Which pairs one query head computes. P is the position of a row block's first row.
enum class IndexForm : std::int32_t {
  all,       // every pair (causal ones when the index is causal)
  relative,  // keys in P + tiles[i] .. P + tiles[i] + 63, and `columns`: the same list for every row block
  window,    // A-shape: |q - k| < local or k < sink, exact for every pair
  blocks,    // CSR: row block b computes key blocks key_blocks[row_offsets[b] .. row_offsets[b + 1])
};

struct HeadIndex {
  IndexForm form = IndexForm::all;
  std::vector<std::int32_t> tiles;    // relative: starts relative to P, descending, disjoint; causal: <= 0
  std::vector<std::int32_t> columns;  // relative: key positions, ascending, unique
  std::int64_t sink = 0, local = 0;   // window
  std::vector<std::int64_t> row_offsets;  // blocks: [num row blocks + 1]
  std::vector<std::int32_t> key_blocks;   // blocks: 64-key blocks of the cache, ascending within a row block
  std::int64_t last_dense_rows = 0;       // rows at or after q_len - last_dense_rows compute every pair

  std::int64_t memory_bytes() const;
};

// The index of one sequence: one entry a query head. Every listed pair is also clipped to 0 <= k < kv_len
// and, when causal, to k <= q.
struct SparseIndex {
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  bool causal = true;
  std::vector<HeadIndex> heads;
};

// Rows of one row block that share their key list: [begin, end) within the call. A row block is cut in two
// where the dense rows begin.
struct RowSlice {
  std::int64_t block = 0;
  std::int64_t begin = 0, end = 0;
  bool dense = false;  // true: every pair, whatever the index says
};

std::vector<RowSlice> row_slices(std::int64_t q_len, std::int64_t last_dense_rows);

// Up to 64 consecutive keys [begin, begin + count), clipped to the cache.
// masked: some pair of the slice and this tile breaks the rule; kernels then ask RowSliceKeys::rule.
struct KeyTile {
  std::int64_t begin = 0;
  std::int32_t count = 0;
  bool masked = false;
};

// What one row slice of one head computes: the one visitor over every form of index, filled once a slice and
// walked by every kernel. Tiles come in descending key order (so the diagonal is first) and are disjoint;
// columns are ascending and lie in no tile. Each pair is computed at most once.
struct RowSliceKeys {
  PairRule rule;
  std::vector<KeyTile> tiles;
  std::vector<std::int32_t> columns;
  bool columns_masked = false;  // some column breaks the rule for some row of the slice
};

// Overwrites `out`, keeping its capacity. Allocates nothing after reserve_keys(), so kernels may call it where
// nothing may throw.
void keys_of_slice(const SparseIndex& index, std::int64_t head, const RowSlice& slice, RowSliceKeys& out);

// Reserves what any slice of any head of `index` can need.
void reserve_keys(const SparseIndex& index, RowSliceKeys& out);

// Pairs the index computes for a head, each once, over all rows; and all pairs (causal ones when causal).
// density = pairs / all pairs. Costs O(tiles + columns * log(tiles)) or O(blocks), not O(pairs).
std::int64_t count_pairs(const SparseIndex& index, std::int64_t head);
std::int64_t count_all_pairs(std::int64_t q_len, std::int64_t kv_len, bool causal);

// What a kernel executes for one head, for cost models. A clipped tile counts as a whole one.
struct HeadWork {
  std::int64_t row_slices = 0;
  std::int64_t tiles = 0;    // summed over row slices
  std::int64_t runs = 0;     // of tiles side by side, summed over row slices; of a relative index
  std::int64_t columns = 0;  // summed over row slices
};
HeadWork work_of(const SparseIndex& index, std::int64_t head);

}  // namespace minference::sparse
