#include <algorithm>
#include <span>
#include <vector>

#include "capi/context.h"
#include "capi/heads.h"
#include "capi/index.h"
#include "capi/status.h"
#include "capi/tensors.h"
#include "kernels/attention/attention.h"
#include "kernels/estimate/estimate.h"
#include "kernels/select/select.h"

namespace minference::capi {
namespace {

// [1, num_heads, 1, kv_len] f32.
void check_sums(const minference_tensor& tensor, const char* name, std::int64_t num_heads,
                std::int64_t kv_len, bool written) {
  check_dtype(tensor, name, MINFERENCE_F32);
  check_tensor(tensor, name, {.shape = {1, num_heads, 1, kv_len}, .written = written});
}

void run_estimate(const ContextLease& context, const minference_estimate_args& args) {
  const LayerTensors layer = check_layer(args.query, args.key, nullptr, nullptr, nullptr);
  base::require(layer.batch == 1, "query.shape[0]", "must be 1 (one sequence)", layer.batch);
  base::require(layer.q_len >= 1 && layer.q_len <= layer.kv_len, "query.shape[2]",
                "must be from 1 to kv_len = " + std::to_string(layer.kv_len), layer.q_len);
  check_sums(args.column_sums, "column_sums", layer.num_query_heads, layer.kv_len, true);
  check_sums(args.diagonal_sums, "diagonal_sums", layer.num_query_heads, layer.kv_len, true);
  if (layer.num_query_heads > 1) {
    const std::int64_t stride = args.column_sums.stride[1];
    base::require(args.diagonal_sums.stride[1] == stride, "diagonal_sums.stride[1]",
                  "must be column_sums.stride[1] = " + std::to_string(stride), args.diagonal_sums.stride[1]);
  }
  kernels::select_estimate(context.isa(), layer.dtype, layer.head_dim)
      .run({.query = input_heads(args.query, 0, 0, layer.q_len),
            .key = input_heads(args.key, 0, 0, layer.kv_len),
            .softmax_scale = checked_softmax_scale(args.softmax_scale, layer.head_dim),
            .column_sums = static_cast<float*>(args.column_sums.data),
            .diagonal_sums = static_cast<float*>(args.diagonal_sums.data),
            .head_stride = args.column_sums.stride[1]},
           context.executor());
}

void run_select(const ContextLease& context, const minference_select_args& args) {
  const std::int64_t num_heads = args.column_sums.shape[1], kv_len = args.column_sums.shape[3];
  check_sums(args.column_sums, "column_sums", kAnySize, kAnySize, false);
  check_sums(args.diagonal_sums, "diagonal_sums", num_heads, kv_len, false);
  check_length(kv_len, "column_sums.shape[3]");
  const auto heads = checked_heads(args.heads, args.num_heads, num_heads, true);
  for (std::size_t h = 0; h < heads.size(); ++h)
    base::require(
        heads[h].pattern == sparse::Pattern::vertical_slash || heads[h].pattern == sparse::Pattern::adaptive,
        "heads[" + std::to_string(h) + "].pattern", "must be vertical-slash (2) or adaptive (4)",
        static_cast<std::int32_t>(heads[h].pattern));
  base::require(args.column_capacity >= 0, "column_capacity", "must be >= 0", args.column_capacity);
  base::require(args.offset_capacity >= 0, "offset_capacity", "must be >= 0", args.offset_capacity);
  if (args.column_capacity > 0) not_null(args.columns, "columns");
  if (args.offset_capacity > 0) not_null(args.offsets, "offsets");
  not_null(args.column_counts, "column_counts");
  not_null(args.offset_counts, "offset_counts");

  const double column_cost = kernels::select_attention(context.isa(), base::DType::f32, 128).cost_of_column;
  std::vector<kernels::Selection> selections(heads.size());
  context.executor().parallel_for_throwing(num_heads, [&](std::int64_t h, int) {
    const auto sums = [&](const minference_tensor& tensor) {
      return std::span(static_cast<const float*>(tensor.data) + h * tensor.stride[1],
                       static_cast<std::size_t>(kv_len));
    };
    selections[static_cast<std::size_t>(h)] = kernels::select(
        heads[static_cast<std::size_t>(h)], sums(args.column_sums), sums(args.diagonal_sums), column_cost);
  });
  for (std::size_t h = 0; h < heads.size(); ++h) {
    args.column_counts[h] = static_cast<std::int64_t>(selections[h].columns.size());
    args.offset_counts[h] = static_cast<std::int64_t>(selections[h].offsets.size());
  }
  for (std::size_t h = 0; h < heads.size(); ++h) {
    base::require(args.column_counts[h] <= args.column_capacity, "column_capacity",
                  "must be >= " + std::to_string(args.column_counts[h]), args.column_capacity);
    base::require(args.offset_counts[h] <= args.offset_capacity, "offset_capacity",
                  "must be >= " + std::to_string(args.offset_counts[h]), args.offset_capacity);
  }
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const auto head = static_cast<std::int64_t>(h);
    std::copy(selections[h].columns.begin(), selections[h].columns.end(),
              args.columns + head * args.column_capacity);
    std::copy(selections[h].offsets.begin(), selections[h].offsets.end(),
              args.offsets + head * args.offset_capacity);
  }
}

void run_attention(const ContextLease& context, const minference_attention_args& args) {
  const LayerTensors layer = check_layer(args.query, args.key, &args.value, &args.out, &args.lse);
  base::require(layer.batch == 1, "query.shape[0]", "must be 1 (one sequence)", layer.batch);
  const auto& index = not_null(args.index, "index").index;
  base::require(index.q_len == layer.q_len, "index",
                "must be made for query.shape[2] = " + std::to_string(layer.q_len), index.q_len);
  base::require(index.kv_len == layer.kv_len, "index",
                "must be made for key.shape[2] = " + std::to_string(layer.kv_len), index.kv_len);
  base::require(static_cast<std::int64_t>(index.heads.size()) == layer.num_query_heads, "index",
                "must have query.shape[1] = " + std::to_string(layer.num_query_heads) + " heads",
                index.heads.size());
  kernels::select_attention(context.isa(), layer.dtype, layer.head_dim)
      .run({.query = input_heads(args.query, 0, 0, layer.q_len),
            .key = input_heads(args.key, 0, 0, layer.kv_len),
            .value = input_heads(args.value, 0, 0, layer.kv_len),
            .out = output_heads(args.out, 0, 0, layer.q_len),
            .lse = row_values(layer.lse, 0, 0),
            .softmax_scale = checked_softmax_scale(args.softmax_scale, layer.head_dim),
            .index = &index},
           context.executor());
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_estimate(minference_context* context, const minference_estimate_args* args) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::run_estimate(lease, capi::checked_struct(args, "args"));
  });
}

minference_status minference_select(minference_context* context, const minference_select_args* args) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::run_select(lease, capi::checked_struct(args, "args"));
  });
}

minference_status minference_attention(minference_context* context, const minference_attention_args* args) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::run_attention(lease, capi::checked_struct(args, "args"));
  });
}

}  // extern "C"
