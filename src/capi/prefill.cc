#include "prefill/prefill.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "capi/context.h"
#include "capi/heads.h"
#include "capi/sequences.h"
#include "capi/status.h"
#include "capi/tensors.h"

namespace minference::capi {
namespace {

void clear_rows(const LayerTensors& layer, std::int64_t batch, std::int64_t begin, std::int64_t end) {
  const base::OutputHeads out = output_heads(*layer.out, batch, begin, end - begin);
  const base::RowsView lse = row_values(layer.lse, batch, begin);
  for (std::int64_t h = 0; h < out.heads; ++h)
    for (std::int64_t r = 0; r < out.rows; ++r) {
      const std::size_t bytes = base::size_of(out.dtype);
      std::memset(static_cast<char*>(out.data) +
                      (h * out.head_stride + r * out.row_stride) * static_cast<std::int64_t>(bytes),
                  0, static_cast<std::size_t>(out.dim) * bytes);
      if (lse.data) lse.at(h, r) = -std::numeric_limits<float>::infinity();
    }
}

void run_prefill(const ContextLease& context, const minference_prefill_args& args,
                 minference_statistics* statistics) {
  const LayerTensors layer = check_layer(args.query, args.key, &args.value, &args.out, &args.lse);
  const bool causal = args.non_causal == 0;
  const auto heads = checked_heads(args.heads, args.num_heads, layer.num_query_heads, causal);
  const float softmax_scale = checked_softmax_scale(args.softmax_scale, layer.head_dim);
  const auto fallback = checked_fallback(args.fallback);
  const bool share_index = checked_share_index(args.share_index);
  const auto sequences = checked_sequences(args.sequences, args.num_sequences, layer, causal);
  const auto order = in_row_order(sequences);

  // The caller's arrays are filled at the end: a later sequence, or attention itself, may run out of memory.
  const auto num_heads = static_cast<std::size_t>(layer.num_query_heads);
  std::vector<double> head_density(statistics && statistics->head_density ? sequences.size() * num_heads : 0);
  std::vector<std::int32_t> head_fallback(
      statistics && statistics->head_fallback ? sequences.size() * num_heads : 0);
  prefill::Statistics total;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto& s = sequences[i];
    if (!head_density.empty()) total.head_density = std::span(head_density).subspan(i * num_heads, num_heads);
    if (!head_fallback.empty())
      total.head_fallback = std::span(head_fallback).subspan(i * num_heads, num_heads);
    const prefill::LayerPlan plan{.query = input_heads(args.query, s.batch, s.q_begin, s.q_len),
                                  .key = input_heads(args.key, s.batch, s.kv_begin, s.kv_len),
                                  .softmax_scale = softmax_scale,
                                  .causal = causal,
                                  .heads = heads,
                                  .fallback = fallback,
                                  .share_index = share_index};
    prefill::prefill_layer(plan, input_heads(args.value, s.batch, s.kv_begin, s.kv_len),
                           output_heads(args.out, s.batch, s.q_begin, s.q_len),
                           row_values(layer.lse, s.batch, s.q_begin), context.isa(), context.executor(),
                           total);
  }
  for_each_gap(layer, sequences, order, [&](std::int64_t batch, std::int64_t begin, std::int64_t end) {
    clear_rows(layer, batch, begin, end);
  });
  if (!statistics) return;
  statistics->seconds_estimate = total.seconds_estimate;
  statistics->seconds_select = total.seconds_select;
  statistics->seconds_index = total.seconds_index;
  statistics->seconds_attend = total.seconds_attend;
  statistics->pairs = total.pairs;
  statistics->all_pairs = total.all_pairs;
  std::copy(head_density.begin(), head_density.end(), statistics->head_density);
  std::copy(head_fallback.begin(), head_fallback.end(), statistics->head_fallback);
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_prefill(minference_context* context, const minference_prefill_args* args,
                                     minference_statistics* statistics) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::checked_struct(args, "args");
    if (statistics) capi::checked_struct(statistics, "statistics");
    capi::run_prefill(lease, *args, statistics);
  });
}

}  // extern "C"
