#pragma once

#include <minference/cpp/context.hpp>
#include <minference/cpp/patterns.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace minference {
namespace detail {

// 1 where there is no pair to leave out.
inline double density(std::int64_t pairs, std::int64_t all_pairs) {
  return all_pairs > 0 ? static_cast<double>(pairs) / static_cast<double>(all_pairs) : 1;
}

// Elements to make room for before the library has seen the extents; it refuses negative ones by name.
inline std::size_t room(std::int64_t a, std::int64_t b) {
  return a > 0 && b > 0 ? static_cast<std::size_t>(a) * static_cast<std::size_t>(b) : 0;
}

}  // namespace detail

enum class Fallback : std::int32_t {
  automatic =
      MINFERENCE_FALLBACK_AUTO,   // short calls, and heads whose index costs more than dense, run densely
  off = MINFERENCE_FALLBACK_OFF,  // always what the pattern says
};

struct Statistics {
  double seconds_estimate = 0, seconds_select = 0, seconds_index = 0, seconds_attend = 0;
  std::int64_t pairs = 0;                   // computed pairs, each once, over sequences and heads
  std::int64_t all_pairs = 0;               // of the same rows, causal ones when causal
  std::vector<double> head_density;         // [num_sequences, Hq]
  std::vector<std::int32_t> head_fallback;  // [num_sequences, Hq]: 1 where the head ran densely by fallback

  // 1 where there is no pair.
  double density() const { return detail::density(pairs, all_pairs); }
};

struct PrefillOptions {
  float softmax_scale = 0;                   // 0: 1 / sqrt(D)
  bool causal = true;                        // false: dense, A-shape and block-sparse only
  std::span<const Sequence> sequences = {};  // empty: every batch entry whole
  Fallback fallback = Fallback::automatic;
  // The query heads of a KV head share an index, made from their summed estimates and their largest budgets.
  bool share_index = false;
  MutableTensorView lse = {};  // [B, Hq, q_len, 1] f32, natural log, -inf for a row without keys
};

// Estimates, selects, indexes and attends, for all heads of one layer.
//
//   query  [B, Hq, q_len, D]    f32, f16 or bf16
//   key    [B, Hkv, kv_len, D]  like query; value too
//   out    like query           rows in no sequence get 0 (and lse -inf)
//   heads  [Hq]
//
// Query row i of a sequence stands at position kv_len - q_len + i; 0 <= q_len <= kv_len when causal.
inline Statistics prefill(Context& context, TensorView query, TensorView key, TensorView value,
                          MutableTensorView out, std::span<const HeadPattern> heads,
                          const PrefillOptions& options = {}) {
  const bool whole = options.sequences.empty();
  const std::int64_t num_sequences =
      whole ? query.c().shape[0] : static_cast<std::int64_t>(options.sequences.size());
  Statistics result;
  result.head_density.resize(detail::room(num_sequences, static_cast<std::int64_t>(heads.size())));
  result.head_fallback.resize(result.head_density.size());
  const minference_prefill_args args{.struct_size = sizeof args,
                                     .query = query.c(),
                                     .key = key.c(),
                                     .value = value.c(),
                                     .out = out.c(),
                                     .lse = options.lse.c(),
                                     .softmax_scale = options.softmax_scale,
                                     .non_causal = options.causal ? 0 : 1,
                                     .sequences = whole ? nullptr : options.sequences.data(),
                                     .num_sequences = whole ? 0 : num_sequences,
                                     .heads = heads.data(),
                                     .num_heads = static_cast<std::int64_t>(heads.size()),
                                     .fallback = static_cast<std::int32_t>(options.fallback),
                                     .share_index = options.share_index ? 1 : 0};
  minference_statistics statistics{};
  statistics.struct_size = sizeof statistics;
  statistics.head_density = result.head_density.data();
  statistics.head_fallback = result.head_fallback.data();
  detail::check(minference_prefill(context.c(), &args, &statistics));
  result.seconds_estimate = statistics.seconds_estimate;
  result.seconds_select = statistics.seconds_select;
  result.seconds_index = statistics.seconds_index;
  result.seconds_attend = statistics.seconds_attend;
  result.pairs = statistics.pairs;
  result.all_pairs = statistics.all_pairs;
  return result;
}

}  // namespace minference
