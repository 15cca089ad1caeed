// The steps, one by one: one sequence, B == 1.
#pragma once

#include <minference/cpp/index.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace minference {

// Attention mass of the last min(64, q_len) rows, summed down columns and along diagonals.
struct Estimate {
  std::int64_t num_heads = 0, kv_len = 0;
  std::vector<float> column_sums;    // [num_heads, kv_len]
  std::vector<float> diagonal_sums;  // [num_heads, kv_len]: entry o sums over the keys `o` before the query
};

// query [1, Hq, q_len, D], key [1, Hkv, kv_len, D]; softmax_scale 0: 1 / sqrt(D).
inline Estimate estimate(Context& context, TensorView query, TensorView key, float softmax_scale = 0) {
  Estimate result;
  result.num_heads = query.c().shape[1];
  result.kv_len = key.c().shape[2];
  const Extents shape{1, result.num_heads, 1, result.kv_len};
  result.column_sums.resize(detail::room(result.num_heads, result.kv_len));
  result.diagonal_sums.resize(result.column_sums.size());
  const minference_estimate_args args{
      .struct_size = sizeof args,
      .query = query.c(),
      .key = key.c(),
      .column_sums = MutableTensorView(result.column_sums.data(), DType::f32, shape).c(),
      .diagonal_sums = MutableTensorView(result.diagonal_sums.data(), DType::f32, shape).c(),
      .softmax_scale = softmax_scale};
  detail::check(minference_estimate(context.c(), &args));
  return result;
}

// One head's vertical columns (key positions) and slash offsets (query minus key position), ascending and
// unique.
struct Members {
  std::vector<std::int32_t> columns, offsets;
};

// heads [num_heads], vertical-slash or adaptive. One Members a head.
inline std::vector<Members> select(Context& context, const Estimate& estimate,
                                   std::span<const HeadPattern> heads) {
  const Extents shape{1, estimate.num_heads, 1, estimate.kv_len};
  // A head has at most kv_len members of either kind; pages that no member reaches stay untouched.
  const auto capacity = static_cast<std::size_t>(estimate.kv_len);
  const auto columns = std::make_unique_for_overwrite<std::int32_t[]>(heads.size() * capacity);
  const auto offsets = std::make_unique_for_overwrite<std::int32_t[]>(heads.size() * capacity);
  std::vector<std::int64_t> column_counts(heads.size()), offset_counts(heads.size());
  const minference_select_args args{.struct_size = sizeof args,
                                    .column_sums = TensorView(estimate.column_sums, shape).c(),
                                    .diagonal_sums = TensorView(estimate.diagonal_sums, shape).c(),
                                    .heads = heads.data(),
                                    .num_heads = static_cast<std::int64_t>(heads.size()),
                                    .columns = columns.get(),
                                    .column_capacity = estimate.kv_len,
                                    .column_counts = column_counts.data(),
                                    .offsets = offsets.get(),
                                    .offset_capacity = estimate.kv_len,
                                    .offset_counts = offset_counts.data()};
  detail::check(minference_select(context.c(), &args));
  std::vector<Members> members(heads.size());
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const std::int32_t *first_column = columns.get() + h * capacity,
                       *first_offset = offsets.get() + h * capacity;
    members[h].columns.assign(first_column, first_column + column_counts[h]);
    members[h].offsets.assign(first_offset, first_offset + offset_counts[h]);
  }
  return members;
}

struct AttentionOptions {
  float softmax_scale = 0;     // 0: 1 / sqrt(D)
  MutableTensorView lse = {};  // [1, Hq, q_len, 1] f32, natural log, -inf for a row without keys
};

// softmax(query key^T) value over exactly the pairs of `index`: adds no members, never falls back. Shapes as
// in prefill() with B == 1; q_len, kv_len and Hq must be those the index was made for.
inline void attention(Context& context, TensorView query, TensorView key, TensorView value,
                      MutableTensorView out, const Index& index, const AttentionOptions& options = {}) {
  const minference_attention_args args{.struct_size = sizeof args,
                                       .query = query.c(),
                                       .key = key.c(),
                                       .value = value.c(),
                                       .out = out.c(),
                                       .lse = options.lse.c(),
                                       .softmax_scale = options.softmax_scale,
                                       .index = index.c()};
  detail::check(minference_attention(context.c(), &args));
}

}  // namespace minference
