#include "prefill/prefill.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "capi/context.h"
#include "capi/patterns.h"
#include "capi/status.h"
#include "capi/tensors.h"

namespace minference::capi {
namespace {

std::string of(std::int64_t i, const char* field) {
  return "sequences[" + std::to_string(i) + "]." + field;
}

void check_range(std::int64_t begin, std::int64_t length, std::int64_t size, std::int64_t i,
                 const char* begin_name, const char* length_name) {
  base::require(begin >= 0 && begin <= size, of(i, begin_name), "must be from 0 to " + std::to_string(size),
                begin);
  base::require(length >= 0 && length <= size - begin, of(i, length_name),
                "must be from 0 to " + std::to_string(size - begin), length);
}

// The call's sequences in order of their query rows, so that gaps between them are easy to see.
std::vector<minference_sequence> checked_sequences(const minference_prefill_args& args,
                                                   const LayerTensors& layer) {
  std::vector<minference_sequence> sequences;
  if (!args.sequences) {
    base::require(args.num_sequences == 0, "num_sequences", "must be 0 when sequences is NULL",
                  args.num_sequences);
    for (std::int64_t b = 0; b < layer.batch; ++b) sequences.push_back({b, 0, layer.q_len, 0, layer.kv_len});
  } else {
    base::require(args.num_sequences >= 0 && args.num_sequences <= std::numeric_limits<std::int32_t>::max(),
                  "num_sequences", "must be from 0 to 2^31 - 1", args.num_sequences);
    sequences.assign(args.sequences, args.sequences + args.num_sequences);
  }
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(sequences.size()); ++i) {
    const auto& s = sequences[static_cast<std::size_t>(i)];
    base::require(s.batch >= 0 && s.batch < layer.batch, of(i, "batch"),
                  "must be from 0 to " + std::to_string(layer.batch - 1), s.batch);
    check_range(s.q_begin, s.q_len, layer.q_len, i, "q_begin", "q_len");
    check_range(s.kv_begin, s.kv_len, layer.kv_len, i, "kv_begin", "kv_len");
    if (!args.non_causal)
      base::require(s.q_len <= s.kv_len, args.sequences ? of(i, "q_len") : "query.shape[2]",
                    "must be <= kv_len = " + std::to_string(s.kv_len) + " when causal", s.q_len);
  }
  return sequences;
}

// Those that have rows; one without any lies in no other's way.
std::vector<std::size_t> in_row_order(const std::vector<minference_sequence>& sequences) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < sequences.size(); ++i)
    if (sequences[i].q_len > 0) order.push_back(i);
  const auto key = [&](std::size_t i) { return std::pair(sequences[i].batch, sequences[i].q_begin); };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto &before = sequences[order[i - 1]], &after = sequences[order[i]];
    base::require(before.batch != after.batch || before.q_begin + before.q_len <= after.q_begin,
                  of(static_cast<std::int64_t>(order[i]), "q_begin"),
                  "must not lie inside another sequence's rows", after.q_begin);
  }
  return order;
}

void clear_rows(const LayerTensors& layer, std::int64_t batch, std::int64_t begin, std::int64_t end) {
  if (begin == end) return;
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

// Rows that belong to no sequence.
void clear_padding(const LayerTensors& layer, const std::vector<minference_sequence>& sequences,
                   const std::vector<std::size_t>& order) {
  std::size_t next = 0;
  for (std::int64_t b = 0; b < layer.batch; ++b) {
    std::int64_t done = 0;
    for (; next < order.size() && sequences[order[next]].batch == b; ++next) {
      const auto& s = sequences[order[next]];
      clear_rows(layer, b, done, s.q_begin);
      done = s.q_begin + s.q_len;
    }
    clear_rows(layer, b, done, layer.q_len);
  }
}

void run_prefill(const ContextLease& context, const minference_prefill_args& args,
                 minference_statistics* statistics) {
  const LayerTensors layer = check_layer(args.query, args.key, &args.value, &args.out, &args.lse);
  const bool causal = args.non_causal == 0;
  const auto heads = checked_heads(args.heads, args.num_heads, layer.num_query_heads, causal);
  const float softmax_scale = checked_softmax_scale(args.softmax_scale, layer.head_dim);
  const auto fallback = checked_fallback(args.fallback);
  const auto sequences = checked_sequences(args, layer);
  const auto order = in_row_order(sequences);

  prefill::Statistics total;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto& s = sequences[i];
    const auto first_head = i * static_cast<std::size_t>(layer.num_query_heads);
    const auto num_heads = static_cast<std::size_t>(layer.num_query_heads);
    total.head_density = statistics && statistics->head_density
                             ? std::span(statistics->head_density + first_head, num_heads)
                             : std::span<double>();
    total.head_fallback = statistics && statistics->head_fallback
                              ? std::span(statistics->head_fallback + first_head, num_heads)
                              : std::span<std::int32_t>();
    const prefill::LayerPlan plan{.query = input_heads(args.query, s.batch, s.q_begin, s.q_len),
                                  .key = input_heads(args.key, s.batch, s.kv_begin, s.kv_len),
                                  .softmax_scale = softmax_scale,
                                  .causal = causal,
                                  .heads = heads,
                                  .fallback = fallback};
    prefill::prefill_layer(plan, input_heads(args.value, s.batch, s.kv_begin, s.kv_len),
                           output_heads(args.out, s.batch, s.q_begin, s.q_len),
                           row_values(layer.lse, s.batch, s.q_begin), context.isa(), context.executor(),
                           total);
  }
  clear_padding(layer, sequences, order);
  if (!statistics) return;
  statistics->seconds_estimate = total.seconds_estimate;
  statistics->seconds_select = total.seconds_select;
  statistics->seconds_index = total.seconds_index;
  statistics->seconds_attend = total.seconds_attend;
  statistics->pairs = total.pairs;
  statistics->all_pairs = total.all_pairs;
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
