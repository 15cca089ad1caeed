#include "search/search.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "capi/context.h"
#include "capi/heads.h"
#include "capi/status.h"
#include "capi/tensors.h"

namespace minference::capi {
namespace {

search::Layer checked_search_layer(const minference_tensor& query, const minference_tensor& key,
                                   const minference_tensor* value, float softmax_scale) {
  const LayerTensors layer = check_layer(query, key, value, nullptr, nullptr);
  base::require(layer.batch == 1, "query.shape[0]", "must be 1 (one sequence)", layer.batch);
  base::require(layer.q_len >= 1 && layer.q_len <= layer.kv_len, "query.shape[2]",
                "must be from 1 to kv_len = " + std::to_string(layer.kv_len), layer.q_len);
  return {.query = input_heads(query, 0, 0, layer.q_len),
          .key = input_heads(key, 0, 0, layer.kv_len),
          .value = value ? input_heads(*value, 0, 0, layer.kv_len) : base::InputHeads{},
          .softmax_scale = checked_softmax_scale(softmax_scale, layer.head_dim)};
}

std::string candidate_name(std::int64_t candidate, std::int64_t head) {
  return "candidates[" + std::to_string(candidate) + "][" + std::to_string(head) + "]";
}

// [num_candidates, num_query_heads] patterns.
std::vector<sparse::HeadPattern> checked_candidates(const minference_head_pattern* candidates,
                                                    std::int64_t num_candidates,
                                                    std::int64_t num_query_heads) {
  base::require(num_candidates >= 1 && num_candidates <= (1 << 20), "num_candidates",
                "must be from 1 to 2^20", num_candidates);
  not_null(candidates, "candidates");
  std::vector<sparse::HeadPattern> checked;
  for (std::int64_t c = 0; c < num_candidates; ++c)
    for (std::int64_t h = 0; h < num_query_heads; ++h)
      checked.push_back(checked_head(candidates[c * num_query_heads + h], candidate_name(c, h)));
  return checked;
}

std::vector<search::Free> checked_free_sizes(const minference_fit_args& args,
                                             std::span<const sparse::HeadPattern> candidates,
                                             std::int64_t num_query_heads) {
  not_null(args.free_size, "free_size");
  std::vector<search::Free> free;
  for (std::int64_t c = 0; c < args.num_candidates; ++c) {
    const std::int32_t size = args.free_size[c];
    base::require(size == 0 || size == 1, "free_size[" + std::to_string(c) + "]", "must be 0 or 1", size);
    for (std::int64_t h = 0; h < num_query_heads; ++h) {
      const auto pattern = candidates[static_cast<std::size_t>(c * num_query_heads + h)].pattern;
      const bool has_size = pattern == sparse::Pattern::a_shape ||
                            pattern == sparse::Pattern::vertical_slash ||
                            (pattern == sparse::Pattern::block_sparse && size == 0);
      base::require(has_size, candidate_name(c, h) + ".pattern",
                    "must have size[" + std::to_string(size) + "], which is free",
                    static_cast<std::int32_t>(pattern));
    }
    free.push_back(static_cast<search::Free>(size));
  }
  return free;
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_score_patterns(minference_context* context,
                                            const minference_score_patterns_args* args,
                                            minference_score* scores) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::checked_struct(args, "args");
    capi::not_null(scores, "scores");
    const search::Layer layer =
        capi::checked_search_layer(args->query, args->key, &args->value, args->softmax_scale);
    const auto candidates =
        capi::checked_candidates(args->candidates, args->num_candidates, layer.query.heads);
    std::vector<search::Score> found(candidates.size());
    search::score(layer, candidates, lease.isa(), lease.executor(), found);
    std::transform(found.begin(), found.end(), scores, [](const search::Score& score) {
      return minference_score{score.error, score.kept_mass, score.kept_mass_last,
                              score.cost,  score.pairs,     score.all_pairs};
    });
  });
}

minference_status minference_fit_patterns(minference_context* context, const minference_fit_args* args,
                                          minference_head_pattern* fitted) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::checked_struct(args, "args");
    capi::not_null(fitted, "fitted");
    const search::Layer layer =
        capi::checked_search_layer(args->query, args->key, nullptr, args->softmax_scale);
    auto candidates = capi::checked_candidates(args->candidates, args->num_candidates, layer.query.heads);
    const auto free = capi::checked_free_sizes(*args, candidates, layer.query.heads);
    base::require(args->cost > 0 && std::isfinite(args->cost), "cost", "must be finite and above 0",
                  args->cost);
    search::fit(layer, free, args->cost, args->shared != 0, lease.isa(), lease.executor(), candidates);
    std::copy_n(args->candidates, candidates.size(), fitted);
    for (std::size_t i = 0; i < candidates.size(); ++i) std::copy_n(candidates[i].size, 2, fitted[i].size);
  });
}

}  // extern "C"
