#include "capi/index.h"

#include <memory>
#include <vector>

#include "capi/context.h"
#include "capi/heads.h"
#include "capi/status.h"
#include "capi/tensors.h"
#include "kernels/index/index.h"
#include "prefill/prefill.h"

namespace minference::capi {
namespace {

// One head's members as int32. Values that int32 cannot hold are refused by name here; ranges are the index
// builder's.
std::vector<std::int32_t> members(const minference_tensor& tensor, std::int64_t head, const char* name) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.shape[3]));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t at = head * tensor.stride[1] + static_cast<std::int64_t>(i);
    const std::int64_t value = tensor.dtype == MINFERENCE_I32
                                   ? static_cast<const std::int32_t*>(tensor.data)[at]
                                   : static_cast<const std::int64_t*>(tensor.data)[at];
    base::require(value == static_cast<std::int32_t>(value), name, "must hold positions that fit int32",
                  value);
    values[i] = static_cast<std::int32_t>(value);
  }
  return values;
}

void check_members(const minference_tensor& tensor, const char* name, std::int64_t num_heads) {
  base::require(tensor.dtype == MINFERENCE_I32 || tensor.dtype == MINFERENCE_I64,
                std::string(name) + ".dtype", "must be MINFERENCE_I32 (4) or MINFERENCE_I64 (5)",
                tensor.dtype);
  check_tensor(tensor, name, {.shape = {1, num_heads, 1, kAnySize}});
}

// Checks `args` and runs the steps that its heads need.
sparse::SparseIndex checked_index(const ContextLease& context, const minference_index_args& args) {
  const LayerTensors layer = check_layer(args.query, args.key, nullptr, nullptr, nullptr);
  base::require(layer.batch == 1, "query.shape[0]", "must be 1 (one sequence)", layer.batch);
  const bool causal = args.non_causal == 0;
  if (causal)
    base::require(layer.q_len <= layer.kv_len, "query.shape[2]",
                  "must be <= kv_len = " + std::to_string(layer.kv_len) + " when causal", layer.q_len);
  const auto heads = checked_heads(args.heads, args.num_heads, layer.num_query_heads, causal);
  prefill::Statistics unused;
  return prefill::build_index({.query = input_heads(args.query, 0, 0, layer.q_len),
                               .key = input_heads(args.key, 0, 0, layer.kv_len),
                               .softmax_scale = checked_softmax_scale(args.softmax_scale, layer.head_dim),
                               .causal = causal,
                               .heads = heads,
                               .fallback = checked_fallback(args.fallback),
                               .share_index = checked_share_index(args.share_index)},
                              context.isa(), context.executor(), unused);
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_index_vertical_slash(const minference_tensor* columns,
                                                  const minference_tensor* offsets, int64_t q_len,
                                                  int64_t kv_len, int32_t non_causal,
                                                  minference_index** index) {
  return capi::guarded([&] {
    capi::not_null(index, "index");
    capi::check_members(capi::not_null(columns, "columns"), "columns", capi::kAnySize);
    capi::check_members(capi::not_null(offsets, "offsets"), "offsets", columns->shape[1]);
    capi::check_length(kv_len, "kv_len");
    capi::check_length(q_len, "q_len");
    if (!non_causal)
      base::require(q_len <= kv_len, "q_len",
                    "must be <= kv_len = " + std::to_string(kv_len) + " when causal", q_len);
    auto made = std::make_unique<minference_index>();
    made->index = {q_len, kv_len, non_causal == 0, {}};
    for (std::int64_t h = 0; h < columns->shape[1]; ++h)
      made->index.heads.push_back(kernels::index_vertical_slash(capi::members(*columns, h, "columns"),
                                                                capi::members(*offsets, h, "offsets"), q_len,
                                                                kv_len, non_causal == 0));
    *index = made.release();
  });
}

minference_status minference_index_create(minference_context* context, const minference_index_args* args,
                                          minference_index** index) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::not_null(index, "index");
    *index = new minference_index{capi::checked_index(lease, capi::checked_struct(args, "args"))};
  });
}

void minference_index_destroy(minference_index* index) {
  delete index;
}

int64_t minference_index_num_heads(const minference_index* index) {
  return index ? static_cast<int64_t>(index->index.heads.size()) : 0;
}

minference_status minference_index_get(const minference_index* index, int64_t head,
                                       minference_index_head* out) {
  return capi::guarded([&] {
    const auto& whole = capi::not_null(index, "index").index;
    const auto count = static_cast<std::int64_t>(whole.heads.size());
    base::require(head >= 0 && head < count, "head", "must be from 0 to " + std::to_string(count - 1), head);
    capi::checked_struct(out, "out");
    const auto& h = whole.heads[static_cast<std::size_t>(head)];
    const auto size = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
    *out = {.struct_size = sizeof *out,
            .form = static_cast<std::int32_t>(h.form),
            .tiles = h.tiles.data(),
            .num_tiles = size(h.tiles),
            .columns = h.columns.data(),
            .num_columns = size(h.columns),
            .sink = h.sink,
            .local = h.local,
            .row_offsets = h.row_offsets.data(),
            .num_row_offsets = size(h.row_offsets),
            .key_blocks = h.key_blocks.data(),
            .num_key_blocks = size(h.key_blocks),
            .last_dense_rows = h.last_dense_rows,
            .pairs = sparse::count_pairs(whole, head),
            .all_pairs = sparse::count_all_pairs(whole.q_len, whole.kv_len, whole.causal),
            .memory_bytes = h.memory_bytes()};
  });
}

}  // extern "C"
