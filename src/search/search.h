#pragma once

#include <cstdint>
#include <span>

#include "base/executor.h"
#include "base/isa.h"
#include "base/tensor.h"
#include "sparse/head_pattern.h"

// Offline search for head patterns (arXiv 2407.02490, Algorithm 1): what a pattern costs, as the attention
// kernel counts it, and how far it moves the attention *output*, on given query, key and value.
namespace minference::search {

// One layer of one sequence, causal, as in prefill::LayerPlan; 1 <= q_len <= kv_len.
struct Layer {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  base::InputHeads value;  // like key
  float softmax_scale = 1.0f;
};

// What one pattern does in one head, against dense attention by the same kernel.
struct Score {
  double error = 0;           // sqrt(sum |out - dense|^2 / sum |dense|^2) over all rows; 0 / 0 is 0
  double kept_mass = 0;       // mean over rows of exp(lse - dense lse)
  double kept_mass_last = 0;  // the same over the last 64 rows
  double cost = 0;            // prefill::cost_of, over that of dense attention
  std::int64_t pairs = 0, all_pairs = 0;
};

// scores[c * num_query_heads + h] of candidates[c * num_query_heads + h] in head h. Nothing falls back to
// dense. Memory: two outputs of the layer and the index of one candidate.
void score(const Layer& layer, std::span<const sparse::HeadPattern> candidates, base::Isa isa,
           base::Executor& executor, std::span<Score> scores);

// What may grow to meet a cost.
enum class Free : std::int32_t { first_size = 0, second_size = 1 };

// Sets the free size of every pattern, candidates[c * num_query_heads + h] for free[c], to the largest that
// costs at most `cost` (a share of dense attention's), from 1 to kv_len; to 1 where that already costs more.
// Every head has its own size, or with `shared` all have one, whose mean cost over heads counts. The size a
// candidate comes with does not matter. layer.value is not used.
void fit(const Layer& layer, std::span<const Free> free, double cost, bool shared, base::Isa isa,
         base::Executor& executor, std::span<sparse::HeadPattern> candidates);

}  // namespace minference::search
