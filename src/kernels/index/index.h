#pragma once

#include <cstdint>
#include <span>

#include "sparse/sparse_index.h"

namespace minference::kernels {

// Columns and offsets -> relative form (sparse::cover_offsets). Members may repeat and come in any order;
// each must lie in [0, kv_len), offsets in (-q_len, kv_len) when the call is not causal. Throws Error naming
// argument, rule and value.
sparse::HeadIndex index_vertical_slash(std::span<const std::int32_t> columns,
                                       std::span<const std::int32_t> offsets, std::int64_t q_len,
                                       std::int64_t kv_len, bool causal);

sparse::HeadIndex index_a_shape(std::int64_t sink, std::int64_t local);

// Block-sparse: row block b keeps the key blocks that hold the positions of its rows, block 0, then the
// blocks with the largest <pooled_query[b], pooled_key[j]> among those with a causal pair, max(top_k, forced)
// in all; ties go to the smaller block. pooled_query [ceil(q_len / 64), dim], pooled_key [ceil(kv_len / 64),
// dim], f32 contiguous.
sparse::HeadIndex index_block_sparse(const float* pooled_query, const float* pooled_key, std::int64_t dim,
                                     std::int64_t top_k, std::int64_t q_len, std::int64_t kv_len,
                                     bool causal);

}  // namespace minference::kernels
