#include "search/search.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"
#include "kernels/estimate/estimate.h"
#include "prefill/prefill.h"

namespace minference::search {
namespace {

using sparse::HeadPattern;

const kernels::AttentionKernel& kernel_of(const Layer& layer, base::Isa isa) {
  return kernels::select_attention(isa, layer.query.dtype, layer.query.dim);
}

sparse::SparseIndex dense_index(const Layer& layer) {
  sparse::SparseIndex index{layer.query.rows, layer.key.rows, true, {}};
  index.heads.resize(static_cast<std::size_t>(layer.query.heads));
  return index;
}

sparse::SparseIndex index_of(const Layer& layer, std::span<const HeadPattern> heads, base::Isa isa,
                             base::Executor& executor) {
  prefill::Statistics unused;
  return prefill::build_index({.query = layer.query,
                               .key = layer.key,
                               .softmax_scale = layer.softmax_scale,
                               .heads = heads,
                               .fallback = prefill::Fallback::off},
                              isa, executor, unused);
}

// The attention output of a layer, contiguous, and its log-sum-exps.
class Output {
 public:
  explicit Output(const Layer& layer)
      : layer_(layer),
        data_(static_cast<std::size_t>(layer.query.heads * head_stride()) * base::size_of(layer.query.dtype)),
        lse_(static_cast<std::size_t>(layer.query.heads * layer.query.rows)) {}

  void compute(const sparse::SparseIndex& index, base::Isa isa, base::Executor& executor) {
    const base::InputHeads& query = layer_.query;
    kernel_of(layer_, isa)
        .run(
            {.query = query,
             .key = layer_.key,
             .value = layer_.value,
             .out = {data_.data(), query.dtype, query.heads, query.rows, query.dim, head_stride(), query.dim},
             .lse = {lse_.data(), query.rows, 1},
             .softmax_scale = layer_.softmax_scale,
             .index = &index},
            executor);
  }

  double at(std::int64_t head, std::int64_t i) const {
    return base::load_float(data_.data(), layer_.query.dtype, head * head_stride() + i);
  }
  double lse(std::int64_t head, std::int64_t row) const {
    return lse_.data()[head * layer_.query.rows + row];
  }
  std::int64_t head_stride() const { return layer_.query.rows * layer_.query.dim; }

 private:
  const Layer& layer_;
  base::AlignedBuffer<char> data_;
  base::AlignedBuffer<float> lse_;
};

void compare(const Layer& layer, const Output& sparse, const Output& dense, std::int64_t head, Score& score) {
  double moved = 0, whole = 0;
  for (std::int64_t i = 0; i < dense.head_stride(); ++i) {
    const double reference = dense.at(head, i), difference = sparse.at(head, i) - reference;
    moved += difference * difference;
    whole += reference * reference;
  }
  score.error = moved == 0 ? 0 : std::sqrt(moved / whole);
  const std::int64_t rows = layer.query.rows;
  const std::int64_t last = std::min(rows, kernels::kEstimateRows);
  double mass = 0, mass_last = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const double kept = std::exp(sparse.lse(head, row) - dense.lse(head, row));
    mass += kept;
    if (row >= rows - last) mass_last += kept;
  }
  score.kept_mass = mass / static_cast<double>(rows);
  score.kept_mass_last = mass_last / static_cast<double>(last);
}

std::int32_t& free_size(HeadPattern& head, Free free) {
  return head.size[static_cast<std::size_t>(free)];
}

// Bisects the size of one candidate for every group of `group` adjacent heads, which share it. All heads go in
// step, so that each step estimates every head once.
void fit_one(const Layer& layer, Free free, double cost, std::size_t group, base::Isa isa,
             base::Executor& executor, std::span<HeadPattern> heads) {
  const kernels::AttentionKernel& kernel = kernel_of(layer, isa);
  const double affordable =
      cost * static_cast<double>(group) * prefill::cost_of(dense_index(layer), 0, kernel);
  const auto limit = static_cast<std::int32_t>(layer.key.rows);
  // low is affordable, or 1; everything above high is not.
  std::vector<std::int32_t> low(heads.size() / group, 1), high(heads.size() / group, limit);
  const auto set_sizes = [&](auto size_of_group) {
    for (std::size_t h = 0; h < heads.size(); ++h) free_size(heads[h], free) = size_of_group(h / group);
  };
  while (low != high) {
    const auto middle = [&](std::size_t g) { return low[g] + (high[g] - low[g] + 1) / 2; };
    set_sizes(middle);
    const sparse::SparseIndex index = index_of(layer, heads, isa, executor);
    for (std::size_t g = 0; g < low.size(); ++g) {
      if (low[g] == high[g]) continue;
      double paid = 0;
      for (std::size_t h = g * group; h < (g + 1) * group; ++h)
        paid += prefill::cost_of(index, static_cast<std::int64_t>(h), kernel);
      if (paid <= affordable)
        low[g] = middle(g);
      else
        high[g] = middle(g) - 1;
    }
  }
  set_sizes([&](std::size_t g) { return low[g]; });
}

}  // namespace

void score(const Layer& layer, std::span<const HeadPattern> candidates, base::Isa isa,
           base::Executor& executor, std::span<Score> scores) {
  const std::int64_t num_heads = layer.query.heads;
  const kernels::AttentionKernel& kernel = kernel_of(layer, isa);
  const sparse::SparseIndex everything = dense_index(layer);
  const double dense_cost = prefill::cost_of(everything, 0, kernel);
  Output dense(layer), sparse(layer);
  dense.compute(everything, isa, executor);
  const auto heads_per_candidate = static_cast<std::size_t>(num_heads);
  for (std::size_t begin = 0; begin < candidates.size(); begin += heads_per_candidate) {
    const sparse::SparseIndex index =
        index_of(layer, candidates.subspan(begin, heads_per_candidate), isa, executor);
    sparse.compute(index, isa, executor);
    executor.parallel_for_throwing(num_heads, [&](std::int64_t h, int) {
      Score& out = scores[begin + static_cast<std::size_t>(h)];
      compare(layer, sparse, dense, h, out);
      out.cost = prefill::cost_of(index, h, kernel) / dense_cost;
      out.pairs = sparse::count_pairs(index, h);
      out.all_pairs = sparse::count_all_pairs(index.q_len, index.kv_len, true);
    });
  }
}

void fit(const Layer& layer, std::span<const Free> free, double cost, bool shared, base::Isa isa,
         base::Executor& executor, std::span<HeadPattern> candidates) {
  const auto num_heads = static_cast<std::size_t>(layer.query.heads);
  for (std::size_t c = 0; c < free.size(); ++c)
    fit_one(layer, free[c], cost, shared ? num_heads : 1, isa, executor,
            candidates.subspan(c * num_heads, num_heads));
}

}  // namespace minference::search
