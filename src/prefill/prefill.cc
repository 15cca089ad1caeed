#include "prefill/prefill.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"
#include "kernels/estimate/estimate.h"
#include "kernels/index/index.h"
#include "kernels/pool/pool.h"
#include "kernels/select/select.h"
#include "sparse/shared_heads.h"

namespace minference::prefill {
namespace {

using sparse::HeadIndex;
using sparse::HeadPattern;
using sparse::Pattern;

// Adds the time from construction to destruction to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), begin_(std::chrono::steady_clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point begin_;
};

bool needs_estimate(const HeadPattern& head) {
  return head.pattern == Pattern::vertical_slash || head.pattern == Pattern::adaptive;
}

template <class Data>
base::HeadsView<Data> slice_heads(base::HeadsView<Data> view, std::int64_t first, std::int64_t count) {
  using Byte = std::conditional_t<std::is_const_v<Data>, const char, char>;
  view.data = static_cast<Byte*>(view.data) +
              first * view.head_stride * static_cast<std::int64_t>(base::size_of(view.dtype));
  view.heads = count;
  return view;
}

// Adds to the row of a head that leads those of the heads that share its index, in their order. `row_of(head)` is
// their rows' first element.
template <class RowOf>
void add_followers(const sparse::SharedHeads& shared, std::int64_t leader, std::int64_t size, RowOf row_of) {
  float* const sums = row_of(leader);
  for (std::int64_t h = shared.next[leader]; h >= 0; h = shared.next[h]) {
    const float* const row = row_of(h);
    for (std::int64_t i = 0; i < size; ++i) sums[i] += row[i];
  }
}

// One pass of estimation over the query heads of some KV heads, and what it selects.
class VerticalSlashHeads {
 public:
  VerticalSlashHeads(const LayerPlan& plan, const sparse::SharedHeads& shared, base::Isa isa,
                     base::Executor& executor)
      : plan_(plan),
        shared_(shared),
        executor_(executor),
        estimate_(kernels::select_estimate(isa, plan.query.dtype, plan.query.dim)),
        column_cost_(kernels::select_attention(isa, plan.query.dtype, plan.query.dim).cost_of_column) {}

  void build(std::vector<HeadIndex>& heads, Statistics& statistics) {
    const std::int64_t group = plan_.query.heads / plan_.key.heads;
    const std::int64_t bytes_per_kv_head =
        2 * group * plan_.key.rows * static_cast<std::int64_t>(sizeof(float));
    // Sums of a few KV heads at a time: enough to keep every worker busy, without O(heads * kv_len) memory at
    // 1M tokens.
    constexpr std::int64_t kSumsBudget = 64 << 20;
    const std::int64_t at_once = std::clamp<std::int64_t>(
        kSumsBudget / std::max<std::int64_t>(1, bytes_per_kv_head), 1, plan_.key.heads);
    base::AlignedBuffer<float> sums(static_cast<std::size_t>(2 * at_once * group * plan_.key.rows));
    for (std::int64_t first = 0; first < plan_.key.heads; first += at_once) {
      const std::int64_t count = std::min(at_once, plan_.key.heads - first);
      if (!any_needs_estimate(first * group, count * group)) continue;
      build_some(first, count, sums.data(), heads, statistics);
    }
  }

 private:
  bool any_needs_estimate(std::int64_t first, std::int64_t count) const {
    const auto heads = plan_.heads.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    return std::any_of(heads.begin(), heads.end(), needs_estimate);
  }

  bool needs_index(std::int64_t head) const {
    return shared_.leads(head) && needs_estimate(plan_.heads[static_cast<std::size_t>(head)]);
  }

  void build_some(std::int64_t first_kv_head, std::int64_t kv_heads, float* sums,
                  std::vector<HeadIndex>& heads, Statistics& statistics) {
    const std::int64_t group = plan_.query.heads / plan_.key.heads;
    const std::int64_t first = first_kv_head * group, count = kv_heads * group, kv_len = plan_.key.rows;
    float* column_sums = sums;
    float* diagonal_sums = sums + count * kv_len;
    {
      Stopwatch watch(statistics.seconds_estimate);
      estimate_.run({.query = slice_heads(plan_.query, first, count),
                     .key = slice_heads(plan_.key, first_kv_head, kv_heads),
                     .softmax_scale = plan_.softmax_scale,
                     .column_sums = column_sums,
                     .diagonal_sums = diagonal_sums,
                     .head_stride = kv_len},
                    executor_);
    }
    // Of all heads that share the index of head `first + i`, which leads them.
    const auto summed = [&](float* rows, std::int64_t i) {
      add_followers(shared_, first + i, kv_len, [&](std::int64_t h) { return rows + (h - first) * kv_len; });
      return std::span<const float>(rows + i * kv_len, static_cast<std::size_t>(kv_len));
    };
    std::vector<kernels::Selection> selections(static_cast<std::size_t>(count));
    {
      Stopwatch watch(statistics.seconds_select);
      executor_.parallel_for_throwing(count, [&](std::int64_t i, int) {
        if (!needs_index(first + i)) return;
        const HeadPattern& head = plan_.heads[static_cast<std::size_t>(first + i)];
        selections[static_cast<std::size_t>(i)] =
            kernels::select(head, summed(column_sums, i), summed(diagonal_sums, i), column_cost_);
      });
    }
    Stopwatch watch(statistics.seconds_index);
    executor_.parallel_for_throwing(count, [&](std::int64_t i, int) {
      if (!needs_index(first + i)) return;
      const auto& selection = selections[static_cast<std::size_t>(i)];
      heads[static_cast<std::size_t>(first + i)] =
          kernels::index_vertical_slash(selection.columns, selection.offsets, plan_.query.rows, kv_len, true);
    });
  }

  const LayerPlan& plan_;
  const sparse::SharedHeads& shared_;
  base::Executor& executor_;
  const kernels::EstimateKernel& estimate_;
  double column_cost_;
};

void build_block_sparse(const LayerPlan& plan, const sparse::SharedHeads& shared, base::Executor& executor,
                        std::vector<HeadIndex>& heads, Statistics& statistics) {
  const auto blocks = [](std::int64_t rows) { return (rows + sparse::kRowBlock - 1) / sparse::kRowBlock; };
  const std::int64_t dim = plan.query.dim;
  const std::int64_t query_size = blocks(plan.query.rows) * dim, key_size = blocks(plan.key.rows) * dim;
  base::AlignedBuffer<float> query(static_cast<std::size_t>(plan.query.heads * query_size));
  base::AlignedBuffer<float> key(static_cast<std::size_t>(plan.key.heads * key_size));
  {
    Stopwatch watch(statistics.seconds_estimate);
    kernels::pool_blocks(plan.query, query.data(), executor);
    kernels::pool_blocks(plan.key, key.data(), executor);
  }
  Stopwatch watch(statistics.seconds_index);
  const std::int64_t group = plan.query.heads / plan.key.heads;
  executor.parallel_for_throwing(plan.query.heads, [&](std::int64_t h, int) {
    const HeadPattern& head = plan.heads[static_cast<std::size_t>(h)];
    if (head.pattern != Pattern::block_sparse || !shared.leads(h)) return;
    // The score of a sum of queries is the sum of their scores.
    add_followers(shared, h, query_size, [&](std::int64_t i) { return query.data() + i * query_size; });
    heads[static_cast<std::size_t>(h)] =
        kernels::index_block_sparse(query.data() + h * query_size, key.data() + h / group * key_size, dim,
                                    head.size[0], plan.query.rows, plan.key.rows, plan.causal);
  });
}

// Turns heads whose index would cost more than dense attention into dense ones, and says which.
void fall_back(const LayerPlan& plan, const kernels::AttentionKernel& kernel, sparse::SparseIndex& index,
               std::span<std::int32_t> fallback) {
  const sparse::SparseIndex dense{index.q_len, index.kv_len, index.causal, {HeadIndex{}}};
  const double dense_cost = cost_of(dense, 0, kernel);
  for (std::int64_t h = 0; h < plan.query.heads; ++h) {
    auto& head = index.heads[static_cast<std::size_t>(h)];
    if (head.form == sparse::IndexForm::all || cost_of(index, h, kernel) < dense_cost) continue;
    head = HeadIndex{};
    if (!fallback.empty()) fallback[static_cast<std::size_t>(h)] = 1;
  }
}

void count_pairs(const sparse::SparseIndex& index, Statistics& statistics) {
  const std::int64_t all = sparse::count_all_pairs(index.q_len, index.kv_len, index.causal);
  for (std::size_t h = 0; h < index.heads.size(); ++h) {
    const std::int64_t pairs = sparse::count_pairs(index, static_cast<std::int64_t>(h));
    statistics.pairs += pairs;
    statistics.all_pairs += all;
    if (!statistics.head_density.empty())
      statistics.head_density[h] = all == 0 ? 1.0 : static_cast<double>(pairs) / static_cast<double>(all);
  }
}

}  // namespace

double cost_of(const sparse::SparseIndex& index, std::int64_t head, const kernels::AttentionKernel& kernel) {
  const sparse::HeadWork work = sparse::work_of(index, head);
  return static_cast<double>(work.tiles) + static_cast<double>(work.columns) * kernel.cost_of_column +
         static_cast<double>(work.runs) * kernel.cost_of_run +
         static_cast<double>(work.row_slices) * kernel.cost_of_slice;
}

sparse::SparseIndex build_index(const LayerPlan& given, base::Isa isa, base::Executor& executor,
                                Statistics& statistics) {
  const std::int64_t group = given.share_index ? given.query.heads / given.key.heads : 1;
  const sparse::SharedHeads shared = sparse::share_within_groups(given.heads, group);
  LayerPlan plan = given;
  plan.heads = shared.heads;
  sparse::SparseIndex index{plan.query.rows, plan.key.rows, plan.causal, {}};
  index.heads.resize(plan.heads.size());
  // Without rows there is nothing to compute, and no fallback from it.
  const bool automatic = plan.fallback == Fallback::automatic && plan.query.rows > 0;
  const kernels::AttentionKernel& kernel = kernels::select_attention(isa, plan.query.dtype, plan.query.dim);
  const bool gated = automatic && runs_densely(plan.query.rows, plan.key.rows, kernel.estimate_rows);

  const auto has = [&](auto predicate) {
    return std::any_of(plan.heads.begin(), plan.heads.end(), predicate);
  };
  const auto is_block_sparse = [](const HeadPattern& head) { return head.pattern == Pattern::block_sparse; };
  if (plan.query.rows > 0 && !gated && has(needs_estimate))
    VerticalSlashHeads(plan, shared, isa, executor).build(index.heads, statistics);
  if (plan.query.rows > 0 && !gated && has(is_block_sparse))
    build_block_sparse(plan, shared, executor, index.heads, statistics);

  Stopwatch watch(statistics.seconds_index);
  for (std::size_t h = 0; h < plan.heads.size(); ++h) {
    const HeadPattern& head = plan.heads[h];
    if (head.pattern == Pattern::a_shape) index.heads[h] = kernels::index_a_shape(head.size[0], head.size[1]);
    if (index.heads[h].form != sparse::IndexForm::all)
      index.heads[h].last_dense_rows = std::min<std::int64_t>(head.last_dense_rows, plan.query.rows);
    if (!statistics.head_fallback.empty())
      statistics.head_fallback[h] = gated && (needs_estimate(head) || is_block_sparse(head));
  }
  if (automatic) fall_back(plan, kernel, index, statistics.head_fallback);
  for (std::size_t h = 0; h < plan.heads.size(); ++h) {
    const auto leader = static_cast<std::size_t>(shared.leader[h]);
    if (leader == h) continue;
    index.heads[h] = index.heads[leader];
    if (!statistics.head_fallback.empty()) statistics.head_fallback[h] = statistics.head_fallback[leader];
  }
  return index;
}

void prefill_layer(const LayerPlan& plan, const base::InputHeads& value, const base::OutputHeads& out,
                   const base::RowsView& lse, base::Isa isa, base::Executor& executor,
                   Statistics& statistics) {
  const sparse::SparseIndex index = build_index(plan, isa, executor, statistics);
  count_pairs(index, statistics);
  Stopwatch watch(statistics.seconds_attend);
  kernels::select_attention(isa, plan.query.dtype, plan.query.dim)
      .run({.query = plan.query,
            .key = plan.key,
            .value = value,
            .out = out,
            .lse = lse,
            .softmax_scale = plan.softmax_scale,
            .index = &index},
           executor);
}

}  // namespace minference::prefill
