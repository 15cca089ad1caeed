#include <cmath>
#include <limits>

#include "base/arena.h"
#include "base/arithmetic.h"
#include "cuda/error.h"
#include "kernels/attention/cuda/attention_cuda.h"
#include "kernels/attention/cuda/plan.h"
#include "kernels/attention/cuda/sm90/launch.h"

namespace minference::kernels::cuda {

namespace {

using base::Arena;
using base::require;
using base::round_up;

Plan lay_out(const DeviceAttentionCall& call, Arena& arena) {
  const std::int64_t num_heads = call.query.heads, kv_len = call.key.rows, q_len = call.query.rows;
  Plan plan = {};
  plan.schedule.num_kv_heads = static_cast<std::int32_t>(call.key.heads);
  plan.schedule.group = static_cast<std::int32_t>(num_heads / call.key.heads);
  plan.schedule.num_pairs = static_cast<std::int32_t>(round_up<std::int64_t>(q_len, kItemRows) / kItemRows);
  plan.q_len = static_cast<std::int32_t>(q_len);
  plan.kv_len = static_cast<std::int32_t>(kv_len);
  plan.tile_capacity = call.index.tile_capacity;
  plan.column_capacity = call.index.column_capacity;
  plan.gathered_capacity = static_cast<std::int32_t>(round_up(plan.column_capacity, kTileKeys));
  // A relative head has at most two entries a tile; the dense list reaches from 128 behind an item to key 0.
  plan.entry_capacity = static_cast<std::int32_t>(
      round_up<std::int64_t>(std::max<std::int64_t>(2 * plan.tile_capacity, kv_len / kTileKeys + 6), 2));
  plan.cover_words = static_cast<std::int32_t>((kv_len + kTileKeys + 31) / 32);
  plan.columns = call.index.columns;
  plan.next_item = arena.take<std::int32_t>(1);
  plan.items = arena.take<Item>(plan.schedule.num_items() + 1);
  plan.entries = arena.take<Entry>((num_heads + 1) * plan.entry_capacity);
  plan.order = arena.take<std::int32_t>((num_heads + 1) * plan.entry_capacity);
  plan.cover = arena.take<std::uint32_t>(num_heads * plan.cover_words);
  const std::int64_t gathered = num_heads * plan.gathered_capacity * call.key.dim;
  plan.gathered_key = arena.take<std::uint16_t>(gathered);
  plan.gathered_value = arena.take<std::uint16_t>(gathered);
  return plan;
}

void check_call(const DeviceAttentionCall& call) {
  const auto& [query, key, value, out, lse, scale, index] = call;
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 27;  // an entry holds a start in 29 bits
  require(key.heads > 0 && query.heads > 0 && query.heads % key.heads == 0, "query.heads",
          "must be a positive multiple of key.heads", query.heads);
  require(query.rows >= 0 && query.rows <= key.rows, "q_len", "must be in [0, kv_len]", query.rows);
  require(key.rows <= kMaxLength, "kv_len", "must be at most 2^27", key.rows);
  require(value.heads == key.heads && value.rows == key.rows && value.dim == key.dim, "value",
          "must have the shape of key, got dim", value.dim);
  require(out.heads == query.heads && out.rows == query.rows && out.dim == query.dim, "out",
          "must have the shape of query, got rows", out.rows);
  require(query.dim == key.dim, "query.dim", "must be key.dim", query.dim);
  require(query.dtype == key.dtype && query.dtype == value.dtype && query.dtype == out.dtype, "dtypes",
          "must be the same, query's is", base::name_of(query.dtype));
  require(supports_attention(query.dtype, query.dim), "head_dim",
          "must be 64, 96 or 128, and the dtype float16 or bfloat16", query.dim,
          base::ErrorCode::unsupported);
  require(scale > 0.0f && std::isfinite(scale), "softmax_scale", "must be positive and finite", scale);
  require(index.tile_capacity >= 0 && index.column_capacity >= 0, "index capacities", "must not be negative",
          std::min(index.tile_capacity, index.column_capacity));
  require(query.heads * (query.rows / kItemRows + 1) < std::numeric_limits<std::int32_t>::max() / 2, "query",
          "must have fewer rows and heads", query.rows, base::ErrorCode::unsupported);
}

}  // namespace

bool supports_attention(base::DType dtype, std::int64_t head_dim) {
  return dtype != base::DType::f32 && (head_dim == 64 || head_dim == 96 || head_dim == 128);
}

std::size_t attention_workspace_bytes(const DeviceAttentionCall& call) {
  check_call(call);
  Arena arena(nullptr);
  lay_out(call, arena);
  return arena.used();
}

void attention(const DeviceAttentionCall& call, void* workspace, std::size_t workspace_bytes, Stream stream) {
  check_call(call);
  if (call.query.rows == 0) return;
  Arena arena(workspace);
  const Plan plan = lay_out(call, arena);
  require(workspace != nullptr && arena.used() <= workspace_bytes, "workspace_bytes",
          "must be at least " + std::to_string(arena.used()), workspace_bytes);
  prepare_plan(call, plan, stream);
  sm90::launch_attention(call, plan, stream);
}

}  // namespace minference::kernels::cuda
