#include "prefill/cuda/layer.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/arithmetic.h"
#include "base/error.h"
#include "kernels/estimate/cuda/estimate_cuda.h"
#include "kernels/index/cuda/blocks_cuda.h"
#include "kernels/index/cuda/index_cuda.h"
#include "kernels/pool/cuda/pool_cuda.h"
#include "kernels/select/cuda/select_cuda.h"
#include "kernels/select/select.h"
#include "kernels/share/cuda/add_followers.h"
#include "prefill/cuda/costs.h"
#include "sparse/block_lists.h"
#include "sparse/cover_scan.h"
#include "sparse/member_bits.h"
#include "sparse/shared_heads.h"
#include "sparse/sparse_index.h"

namespace minference::prefill::cuda {
namespace {

namespace kernels = minference::kernels::cuda;
using base::Arena;
using sparse::HeadPattern;
using sparse::IndexForm;
using sparse::Pattern;

constexpr std::int64_t kMaxHeads = std::min({kernels::kMaxEstimatedHeads, kernels::kMaxSelectedHeads,
                                             kernels::kMaxIndexedHeads, kernels::kMaxSharingHeads});

bool needs_estimate(const HeadPattern& head) {
  return head.pattern == Pattern::vertical_slash || head.pattern == Pattern::adaptive;
}

// What is known of a layer before its keys are: which heads are estimated, and what the others compute.
class HeadPlans {
 public:
  explicit HeadPlans(const LayerPlan& plan)
      : q_len_(plan.query.rows),
        kv_len_(plan.key.rows),
        causal_(plan.causal),
        shared_(sparse::share_within_groups(plan.heads,
                                            plan.share_index ? plan.query.heads / plan.key.heads : 1)) {
    const bool automatic = plan.fallback == Fallback::automatic;
    const bool gated = q_len_ == 0 || (automatic && runs_densely(q_len_, kv_len_, cuda::kEstimateRows));
    all_pairs_ = sparse::count_all_pairs(q_len_, kv_len_, causal_);
    dense_cost_ = cost_of({}, 1.0);
    limit_ = automatic ? dense_cost_ : std::numeric_limits<double>::infinity();
    for (const HeadPattern& head : shared_.heads) {
      const auto h = static_cast<std::int32_t>(plans_.size());
      const bool estimated = needs_estimate(head) && !gated;
      if (estimated) estimated_.push_back(h);
      patterns_.push_back(estimated && shared_.leads(h) ? head : HeadPattern{});
      const bool dense = head.pattern == Pattern::dense || (gated && head.pattern != Pattern::a_shape);
      plans_.push_back(dense ? kernels::IndexPlan{.pairs = all_pairs_} : plan_of(head));
      plans_.back().leader = shared_.leader[h];
      plans_.back().next = shared_.next[h];
    }
  }

  std::span<const kernels::IndexPlan> plans() const { return plans_; }
  std::span<const HeadPattern> patterns() const { return patterns_; }
  std::span<const std::int32_t> estimated() const { return estimated_; }
  // Heads of this form that others share their index with.
  std::vector<std::int32_t> leaders(IndexForm form) const {
    std::vector<std::int32_t> leaders;
    for (const kernels::IndexPlan& plan : plans_) {
      const auto h = static_cast<std::int32_t>(&plan - plans_.data());
      if (plan.form == form && plan.leader == h && plan.next >= 0) leaders.push_back(h);
    }
    return leaders;
  }
  std::span<const std::int32_t> next() const { return shared_.next; }
  bool all_dense() const {
    return std::all_of(plans_.begin(), plans_.end(),
                       [](const kernels::IndexPlan& plan) { return plan.form == IndexForm::all; });
  }
  bool any_blocks() const {
    return std::any_of(plans_.begin(), plans_.end(),
                       [](const kernels::IndexPlan& plan) { return plan.form == IndexForm::blocks; });
  }
  bool any_dense_rows() const {
    return std::any_of(plans_.begin(), plans_.end(),
                       [](const kernels::IndexPlan& plan) { return plan.last_dense_rows > 0; });
  }
  double limit() const { return limit_; }
  std::int64_t all_pairs() const { return all_pairs_; }

 private:
  sparse::SparseIndex index_of(const sparse::HeadIndex& head) const {
    return {q_len_, kv_len_, causal_, {head}};
  }

  double cost_of(const sparse::HeadIndex& head, double cost_of_tile) const {
    const sparse::HeadWork work = sparse::work_of(index_of(head), 0);
    return static_cast<double>(work.tiles) * cost_of_tile +
           static_cast<double>(work.row_slices) * kCostOfSlice;
  }

  // A layer's heads mostly have few different sizes, and counting their tiles takes a step a row block.
  const kernels::IndexPlan& plan_of(const HeadPattern& head) {
    HeadPattern key = head;
    if (needs_estimate(head))
      key = {.pattern = Pattern::vertical_slash, .last_dense_rows = head.last_dense_rows};
    const auto known =
        std::find_if(known_.begin(), known_.end(), [&](const auto& plan) { return plan.first == key; });
    if (known != known_.end()) return known->second;
    const kernels::IndexPlan plan = needs_estimate(head)               ? relative(head)
                                    : head.pattern == Pattern::a_shape ? a_shape(head)
                                                                       : block_sparse(head);
    return known_.emplace_back(key, plan).second;
  }

  std::int64_t dense_rows_of(const HeadPattern& head) const {
    return std::min<std::int64_t>(head.last_dense_rows, q_len_);
  }

  // Its own tiles and columns are counted where they are found.
  kernels::IndexPlan relative(const HeadPattern& head) const {
    const std::int64_t rows = dense_rows_of(head);
    if (rows == 0) return {.form = IndexForm::relative};
    const sparse::HeadIndex index{.form = IndexForm::relative, .last_dense_rows = rows};
    const std::int64_t sparse_slices = base::divide_up(q_len_ - rows, sparse::kRowBlock);
    return {
        .form = IndexForm::relative,
        .last_dense_rows = static_cast<std::int32_t>(rows),
        .pairs = sparse::count_pairs(index_of(index), 0),
        .dense_rows_cost = cost_of(index, kCostOfTile) - static_cast<double>(sparse_slices) * kCostOfSlice};
  }

  kernels::IndexPlan a_shape(const HeadPattern& head) const {
    const sparse::HeadIndex index{.form = IndexForm::window,
                                  .sink = head.size[0],
                                  .local = head.size[1],
                                  .last_dense_rows = dense_rows_of(head)};
    if (cost_of(index, kCostOfTile) >= limit_) return {.pairs = all_pairs_};
    return {.form = IndexForm::window,
            .sink = head.size[0],
            .local = head.size[1],
            .last_dense_rows = static_cast<std::int32_t>(index.last_dense_rows),
            .pairs = sparse::count_pairs(index_of(index), 0)};
  }

  kernels::IndexPlan block_sparse(const HeadPattern& head) const {
    if (head.size[0] >= base::divide_up(kv_len_, sparse::kKeyTile)) return {.pairs = all_pairs_};
    const sparse::BlockWork work = sparse::work_of_blocks(q_len_, kv_len_, head.size[0], dense_rows_of(head));
    const double cost =
        static_cast<double>(work.tiles) * kCostOfTile + static_cast<double>(work.row_slices) * kCostOfSlice;
    if (cost >= limit_) return {.pairs = all_pairs_};
    return {.form = IndexForm::blocks,
            .top_k = head.size[0],
            .last_dense_rows = static_cast<std::int32_t>(dense_rows_of(head)),
            .pairs = work.pairs};
  }

  std::int64_t q_len_, kv_len_;
  bool causal_;
  sparse::SharedHeads shared_;
  std::int64_t all_pairs_ = 0;
  double dense_cost_ = 0, limit_ = 0;  // an index that costs `limit_` is not worth it
  std::vector<kernels::IndexPlan> plans_;
  std::vector<HeadPattern> patterns_;  // of heads whose members are selected; dense for all others
  std::vector<std::int32_t> estimated_;
  std::vector<std::pair<HeadPattern, kernels::IndexPlan>> known_;
};

// What the steps before the index leave, and their scratch.
struct IndexWorkspace {
  float* column_sums;
  float* diagonal_sums;
  std::int64_t head_stride;
  std::uint32_t* columns;
  std::uint32_t* offsets;
  char* estimate;
  char* select;
  char* index;
  float* pooled_query;
  float* pooled_key;
};

std::int64_t blocks_of(std::int64_t rows) {
  return base::divide_up(rows, sparse::kRowBlock);
}

IndexWorkspace take_index_workspace(const LayerPlan& plan, const HeadPlans& heads, bool sums_wanted,
                                    Arena& arena) {
  IndexWorkspace workspace = {};
  const std::int64_t num_heads = plan.query.heads, kv_len = plan.key.rows;
  if (heads.any_blocks()) {
    workspace.pooled_query = arena.take<float>(num_heads * blocks_of(plan.query.rows) * plan.query.dim);
    workspace.pooled_key = arena.take<float>(plan.key.heads * blocks_of(kv_len) * plan.query.dim);
  }
  if (heads.estimated().empty()) return workspace;
  // Rows begin on 256-byte boundaries.
  workspace.head_stride = sums_wanted ? kv_len : base::round_up<std::int64_t>(kv_len, 64);
  workspace.column_sums = arena.take<float>(num_heads * workspace.head_stride);
  workspace.diagonal_sums = arena.take<float>(num_heads * workspace.head_stride);
  workspace.columns = arena.take<std::uint32_t>(num_heads * sparse::member_words(kv_len));
  workspace.offsets = arena.take<std::uint32_t>(num_heads * sparse::member_words(kv_len));
  workspace.estimate = arena.take<char>(
      static_cast<std::int64_t>(kernels::estimate_workspace_bytes({.query = plan.query, .key = plan.key})));
  workspace.select = arena.take<char>(static_cast<std::int64_t>(
      kernels::select_workspace_bytes({.kv_len = kv_len, .heads = heads.patterns()})));
  workspace.index =
      arena.take<char>(static_cast<std::int64_t>(kernels::index_workspace_bytes(num_heads, kv_len)));
  return workspace;
}

void build_index(const LayerPlan& plan, const HeadPlans& heads, const IndexOutputs& out, Arena& arena,
                 Stream stream) {
  const bool sums_wanted = out.column_sums != nullptr;
  IndexWorkspace workspace = take_index_workspace(plan, heads, sums_wanted, arena);
  if (sums_wanted) {
    workspace.column_sums = out.column_sums;
    workspace.diagonal_sums = out.diagonal_sums;
  }
  if (!heads.estimated().empty()) {
    kernels::estimate({.query = plan.query,
                       .key = plan.key,
                       .softmax_scale = plan.softmax_scale,
                       .heads = heads.estimated(),
                       .column_sums = workspace.column_sums,
                       .diagonal_sums = workspace.diagonal_sums,
                       .head_stride = workspace.head_stride},
                      workspace.estimate, stream);
    for (float* sums : {workspace.column_sums, workspace.diagonal_sums})
      kernels::add_followers({.rows = sums,
                              .stride = workspace.head_stride,
                              .size = plan.key.rows,
                              .leaders = heads.leaders(IndexForm::relative),
                              .next = heads.next()},
                             stream);
    kernels::select({.column_sums = workspace.column_sums,
                     .diagonal_sums = workspace.diagonal_sums,
                     .head_stride = workspace.head_stride,
                     .kv_len = plan.key.rows,
                     .heads = heads.patterns(),
                     .column_cost = kCostOfColumn,
                     .columns = workspace.columns,
                     .offsets = workspace.offsets},
                    workspace.select, stream);
    if (out.offsets != nullptr)
      kernels::list_members(workspace.offsets, plan.query.heads, plan.key.rows, out.offsets,
                            out.offset_capacity, out.offset_counts, stream);
  }
  if (heads.any_blocks()) {
    kernels::pool_blocks(plan.query, workspace.pooled_query, stream);
    kernels::pool_blocks(plan.key, workspace.pooled_key, stream);
    // The score of a sum of queries is the sum of their scores.
    const std::int64_t pooled_size = blocks_of(plan.query.rows) * plan.query.dim;
    kernels::add_followers({.rows = workspace.pooled_query,
                            .stride = pooled_size,
                            .size = pooled_size,
                            .leaders = heads.leaders(IndexForm::blocks),
                            .next = heads.next()},
                           stream);
    kernels::index_blocks({.q_len = plan.query.rows,
                           .kv_len = plan.key.rows,
                           .num_heads = plan.query.heads,
                           .num_kv_heads = plan.key.heads,
                           .dim = plan.query.dim,
                           .heads = heads.plans(),
                           .pooled_query = workspace.pooled_query,
                           .pooled_key = workspace.pooled_key,
                           .row_offsets = out.row_offsets,
                           .key_blocks = out.key_blocks,
                           .block_capacity = out.capacity.blocks},
                          stream);
  }
  kernels::build_index({.q_len = plan.query.rows,
                        .kv_len = plan.key.rows,
                        .heads = heads.plans(),
                        .columns = workspace.columns,
                        .offsets = workspace.offsets,
                        .costs = {kCostOfTile, kCostOfColumn, kCostOfSlice},
                        .dense_cost = heads.limit(),
                        .all_pairs = heads.all_pairs(),
                        .out_heads = out.heads,
                        .out_tiles = out.tiles,
                        .out_columns = out.columns,
                        .tile_capacity = out.capacity.tiles,
                        .column_capacity = out.capacity.columns,
                        .out_last_dense_rows = out.last_dense_rows,
                        .out_pairs = out.pairs},
                       workspace.index, stream);
}

// The layer's index stays while attention runs; what was needed to make it does not, and attention's own
// workspace takes its place.
struct LayerWorkspace {
  IndexOutputs index;
  kernels::DeviceAttentionCall attention;
  std::size_t shared_at, attention_bytes, bytes;
};

LayerWorkspace lay_out(const LayerPlan& plan, const HeadPlans& heads, const LayerOutputs& out, void* base) {
  const std::int64_t num_heads = plan.query.heads;
  // Attention's size depends on which pieces there are, not on where they lie.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that nothing reads.
  Arena arena(base != nullptr ? base : reinterpret_cast<void*>(Arena::kAlignment));
  LayerWorkspace workspace;
  workspace.index = {
      .heads = arena.take<sparse::DeviceHead>(num_heads),
      .tiles = arena.take<std::int32_t>(num_heads * out.capacity.tiles),
      .columns = arena.take<std::int32_t>(num_heads * out.capacity.columns),
      .capacity = out.capacity,
      .row_offsets = heads.any_blocks()
                         ? arena.take<std::int32_t>(num_heads * (blocks_of(plan.query.rows) + 1))
                         : nullptr,
      .key_blocks = heads.any_blocks() ? arena.take<std::int32_t>(num_heads * out.capacity.blocks) : nullptr,
      .last_dense_rows = heads.any_dense_rows() ? arena.take<std::int32_t>(num_heads) : nullptr,
      .pairs = out.pairs};
  workspace.attention = {.query = plan.query,
                         .key = plan.key,
                         .value = out.value,
                         .out = out.out,
                         .lse = out.lse,
                         .softmax_scale = plan.softmax_scale,
                         .causal = plan.causal};
  // Without head records attention runs its denser path.
  if (!heads.all_dense())
    workspace.attention.index = {.heads = workspace.index.heads,
                                 .tiles = workspace.index.tiles,
                                 .columns = workspace.index.columns,
                                 .tile_capacity = out.capacity.tiles,
                                 .column_capacity = out.capacity.columns,
                                 .row_offsets = workspace.index.row_offsets,
                                 .key_blocks = workspace.index.key_blocks,
                                 .block_capacity = out.capacity.blocks,
                                 .last_dense_rows = workspace.index.last_dense_rows};
  workspace.shared_at = arena.used();
  workspace.attention_bytes = kernels::attention_workspace_bytes(workspace.attention);
  Arena counting(nullptr);
  take_index_workspace(plan, heads, false, counting);
  workspace.bytes = workspace.shared_at + std::max(workspace.attention_bytes, counting.used());
  return workspace;
}

}  // namespace

void check_plan(const LayerPlan& plan) {
  using base::require;
  constexpr auto kUnsupported = base::ErrorCode::unsupported;
  require(plan.query.heads <= kMaxHeads, "query.shape[1]", "must be at most " + std::to_string(kMaxHeads),
          plan.query.heads, kUnsupported);
  require(plan.query.dtype != base::DType::f32, "query.dtype", "must be float16 or bfloat16 on CUDA",
          base::name_of(plan.query.dtype), kUnsupported);
  for (std::size_t h = 0; h < plan.heads.size(); ++h) {
    if (plan.heads[h].pattern != Pattern::block_sparse) continue;
    const std::string name = "heads[" + std::to_string(h) + "].pattern";
    require(plan.causal, name, "must not be block-sparse when non_causal on CUDA", 3, kUnsupported);
    require(plan.key.rows <= kernels::kMaxBlockSparseKeys, "key.shape[2]",
            "must be at most " + std::to_string(kernels::kMaxBlockSparseKeys) +
                " with block-sparse heads on CUDA",
            plan.key.rows, kUnsupported);
  }
}

IndexCapacity capacity_for(const LayerPlan& plan) {
  const std::int64_t kv_len = plan.key.rows;
  std::int64_t tiles = 0, columns = 0, blocks = 0;
  std::int32_t top_k = -1;
  for (const HeadPattern& head : plan.heads) {
    if (head.pattern == Pattern::block_sparse && head.size[0] < base::divide_up(kv_len, sparse::kKeyTile))
      top_k = std::max(top_k, head.size[0]);
    if (!needs_estimate(head)) continue;
    tiles = sparse::cover_words(kv_len);
    // A sixteenth of all keys costs a row block as much as an eighth of dense attention does on average.
    constexpr std::int64_t kAdaptiveShare = 16, kAdaptiveLeast = 1024;
    const std::int64_t most = head.pattern == Pattern::adaptive
                                  ? std::max(kAdaptiveLeast, kv_len / kAdaptiveShare)
                                  : std::max<std::int64_t>(minference::kernels::kMinVertical, head.size[0]);
    columns = std::max(columns, std::min(kv_len, most));
  }
  for (std::int64_t b = 0; top_k >= 0 && b < blocks_of(plan.query.rows); ++b)
    blocks += sparse::BlockList::of(plan.query.rows, kv_len, b, top_k).kept;
  return {static_cast<std::int32_t>(tiles), static_cast<std::int32_t>(columns),
          static_cast<std::int32_t>(blocks)};
}

std::size_t index_workspace_bytes(const LayerPlan& plan) {
  Arena arena(nullptr);
  take_index_workspace(plan, HeadPlans(plan), false, arena);
  return arena.used();
}

void build_index(const LayerPlan& plan, const IndexOutputs& out, void* workspace, Stream stream) {
  Arena arena(workspace);
  build_index(plan, HeadPlans(plan), out, arena, stream);
}

std::size_t layer_workspace_bytes(const LayerPlan& plan, const LayerOutputs& out) {
  return lay_out(plan, HeadPlans(plan), out, nullptr).bytes;
}

void prefill_layer(const LayerPlan& plan, const LayerOutputs& out, void* workspace, Stream stream) {
  if (plan.query.rows == 0) return;
  const HeadPlans heads(plan);
  const LayerWorkspace layer = lay_out(plan, heads, out, workspace);
  char* shared = static_cast<char*>(workspace) + layer.shared_at;
  Arena arena(shared);
  if (!heads.all_dense() || out.pairs != nullptr) build_index(plan, heads, layer.index, arena, stream);
  kernels::attention(layer.attention, shared, layer.attention_bytes, stream);
}

}  // namespace minference::prefill::cuda
