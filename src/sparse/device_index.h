#pragma once

#include <cstdint>

#include "sparse/sparse_index.h"

// SparseIndex in device memory: what CUDA's index step writes and its attention reads, without the host.
namespace minference::sparse {

// Which pairs one query head computes, as HeadIndex says them.
struct DeviceHead {
  IndexForm form = IndexForm::all;
  std::int32_t num_tiles = 0;    // relative: valid entries of this head's row of DeviceIndex::tiles
  std::int32_t num_columns = 0;  // relative: valid entries of this head's row of DeviceIndex::columns
  std::int32_t sink = 0;         // window
  std::int32_t local = 0;        // window
};

// The index of one sequence; a kernel trusts it, so it must keep the contract of sparse_index.h: tiles
// descending, at least 64 apart; columns ascending, unique, in [0, kv_len); a row block's key blocks ascending, unique.
struct DeviceIndex {
  const DeviceHead* heads = nullptr;      // [num_query_heads]; nullptr: every head computes all pairs
  const std::int32_t* tiles = nullptr;    // [num_query_heads, tile_capacity], starts relative to a row block
  const std::int32_t* columns = nullptr;  // [num_query_heads, column_capacity], key positions
  std::int32_t tile_capacity = 0;
  std::int32_t column_capacity = 0;

  // Heads of form `blocks`: row block b computes the head's key_blocks[row_offsets[b] .. row_offsets[b + 1]).
  const std::int32_t* row_offsets = nullptr;  // [num_query_heads, num row blocks + 1]; nullptr: no such head
  const std::int32_t* key_blocks = nullptr;   // [num_query_heads, block_capacity]
  std::int32_t block_capacity = 0;

  const std::int32_t* last_dense_rows = nullptr;  // [num_query_heads]; nullptr: 0 in every head
};

}  // namespace minference::sparse
