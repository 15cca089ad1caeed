#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/stream.h"
#include "sparse/device_index.h"

namespace minference::kernels::cuda {

inline constexpr std::int64_t kMaxIndexedHeads = 128;  // what a launch takes as arguments

// What the index of one head is made from.
struct IndexPlan {
  // Of the heads that share this head's index (sparse/shared_heads.h). `relative`: every head lists its leader's
  // members; blocks: a leader's lists are written for all of them.
  std::int32_t leader = 0;
  std::int32_t next = -1;
  // `relative`: from the head's bitmaps. Others are written as they are.
  sparse::IndexForm form = sparse::IndexForm::all;
  std::int32_t sink = 0, local = 0;  // window
  std::int32_t top_k = 0;            // blocks; their lists are index_blocks()'s
  std::int32_t last_dense_rows = 0;  // up to q_len; 0 of form `all`
  std::int64_t pairs = 0;            // of a `relative` head those of its dense rows
  double dense_rows_cost = 0;        // relative: what its dense rows add to the cost
};

// Costs in units of one 64 x 64 tile of dense attention.
struct IndexCosts {
  double tile = 1.0;    // one listed tile of one row block
  double column = 0.0;  // one gathered column of one row block
  double slice = 0.0;   // a row block
};

// kernels/index/index.h's index_vertical_slash, causal, for the heads of one sequence in device memory, and
// the fallback to all pairs (docs/algorithm.md, "Never slower than dense"). A head of form `relative` whose
// index costs as much as `dense_cost` or more, or whose lists do not fit, computes every pair.
struct DeviceIndexCall {
  std::int64_t q_len = 0, kv_len = 0;      // q_len <= kv_len
  std::span<const IndexPlan> heads;        // host memory, [num_query_heads], at most kMaxIndexedHeads
  const std::uint32_t* columns = nullptr;  // [num_query_heads, sparse::member_words(kv_len)], bitmaps
  const std::uint32_t* offsets = nullptr;  // the same
  IndexCosts costs;
  double dense_cost = 0;       // of all pairs; infinity: no fallback for cost
  std::int64_t all_pairs = 0;  // of a head

  sparse::DeviceHead* out_heads = nullptr;  // [num_query_heads]
  std::int32_t* out_tiles = nullptr;        // [num_query_heads, tile_capacity]
  std::int32_t* out_columns = nullptr;      // [num_query_heads, column_capacity]
  std::int32_t tile_capacity = 0;           // sparse::cover_words(kv_len) is enough for any offsets
  std::int32_t column_capacity = 0;
  std::int32_t* out_last_dense_rows = nullptr;  // [num_query_heads]; nullptr: no head has dense rows
  std::int64_t* out_pairs = nullptr;  // [num_query_heads] computed pairs, each once; nullptr: not wanted
};

// Bytes of device memory that build_index() needs where a head is `relative`.
std::size_t index_workspace_bytes(std::int64_t num_heads, std::int64_t kv_len);

// Asynchronous on `stream`, without host synchronisation. `workspace` is aligned to 256 bytes.
void build_index(const DeviceIndexCall& call, void* workspace, minference::cuda::Stream stream);

// Lists of members, in any order, duplicates allowed, to bitmaps. A member outside [0, kv_len) is left out.
struct DeviceMembers {
  const std::int32_t* members = nullptr;  // [num_heads, capacity]
  const std::int32_t* counts = nullptr;   // [num_heads], in [0, capacity]; nullptr: `capacity` each
  std::int32_t capacity = 0;
};
void mark_members(const DeviceMembers& lists, std::int64_t num_heads, std::int64_t kv_len,
                  std::uint32_t* bitmaps, minference::cuda::Stream stream);

// Bitmaps to ascending lists. Heads with more than `capacity` members list the first ones; counts are true.
void list_members(const std::uint32_t* bitmaps, std::int64_t num_heads, std::int64_t kv_len,
                  std::int32_t* members, std::int32_t capacity, std::int32_t* counts,
                  minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
