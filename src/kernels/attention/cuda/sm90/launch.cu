#include "kernels/attention/cuda/sm90/launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/arithmetic.h"
#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/sm90/items.h"
#include "kernels/attention/cuda/sm90/paired_lists.h"

namespace minference::kernels::cuda::sm90 {

namespace {

template <class Element>
void launch_for_head_dim(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  switch (call.query.dim) {
    case 64:
      return launch_attention_kernel<Element, 64>(call, plan, stream);
    case 96:
      return launch_attention_kernel<Element, 96>(call, plan, stream);
    case 128:
      return launch_attention_kernel<Element, 128>(call, plan, stream);
    default:
      return launch_attention_kernel<Element, 256>(call, plan, stream);
  }
}

}  // namespace

bool serves_head_dim(std::int64_t head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

namespace {

std::int64_t items_per_head(const DeviceAttentionCall& call) {
  return base::divide_up<std::int64_t>(call.query.rows, kItemRows);
}

std::int64_t block_words(const DeviceAttentionCall& call) {
  if (call.index.row_offsets == nullptr) return 0;
  // An item's lists begin behind all that the items before it can need.
  return words_of_paired_lists(call.index.block_capacity) + words_of_paired_lists(0) * items_per_head(call);
}

bool can_be_squares(const DeviceAttentionCall& call) {
  return call.index.row_offsets != nullptr && call.causal && tiles_a_step(call.query.dim) == 2 &&
         (call.key.rows - call.query.rows) % kItemRows == 0;
}

}  // namespace

bool can_plan_blocks(const DeviceAttentionCall& call) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  return call.query.heads * block_words(call) < kMost;
}

Plan lay_out(const DeviceAttentionCall& call, base::Arena& arena) {
  using base::round_up;
  const std::int64_t num_heads = call.query.heads, kv_len = call.key.rows, q_len = call.query.rows;
  Plan plan = {};
  plan.schedule = Schedule::of(call, static_cast<std::int32_t>(items_per_head(call)));
  plan.q_len = static_cast<std::int32_t>(q_len);
  plan.kv_len = static_cast<std::int32_t>(kv_len);
  plan.causal = call.causal ? 1 : 0;
  plan.tiles_a_step = tiles_a_step(call.query.dim);
  plan.tile_capacity = call.index.tile_capacity;
  plan.column_capacity = call.index.column_capacity;
  plan.gathered_capacity = static_cast<std::int32_t>(round_up(plan.column_capacity, kTileKeys));
  plan.entry_capacity = entry_capacity(plan.kv_len, call.causal, plan.tile_capacity);
  plan.block_words = static_cast<std::int32_t>(block_words(call));
  plan.cover_words = static_cast<std::int32_t>(cover_words(kv_len));
  plan.columns = call.index.columns;
  plan.next_item = arena.take<std::int32_t>(1);
  if (can_be_squares(call)) plan.not_squares = arena.take<std::int32_t>(1);
  plan.items = arena.take<Item>(plan.schedule.num_items() + 1);
  const std::int64_t listed = (num_heads + 1) * plan.entry_capacity, blocks = num_heads * plan.block_words;
  plan.entries = arena.take<Entry>(listed + blocks);
  plan.order =
      arena.take<std::int32_t>(2 * listed + blocks + plan.gathered_capacity / kTileKeys + kOrderAhead);
  plan.cover = arena.take<std::uint32_t>(num_heads * plan.cover_words);
  const std::int64_t gathered = num_heads * plan.gathered_capacity * call.key.dim;
  plan.gathered_key = arena.take<std::uint16_t>(gathered);
  plan.gathered_value = arena.take<std::uint16_t>(gathered);
  return plan;
}

std::size_t workspace_bytes(const DeviceAttentionCall& call) {
  base::Arena arena(nullptr);
  lay_out(call, arena);
  return arena.used();
}

void launch_attention(const DeviceAttentionCall& call, base::Arena& workspace, Stream stream) {
  const Plan plan = lay_out(call, workspace);
  prepare_plan(call, plan, stream);
  if (call.query.dtype == base::DType::bf16) {
    launch_for_head_dim<__nv_bfloat16>(call, plan, stream);
  } else {
    launch_for_head_dim<__half>(call, plan, stream);
  }
}

}  // namespace minference::kernels::cuda::sm90
