#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/tensor.h"
#include "kernels/attention/cuda/attention_cuda.h"
#include "prefill/gate.h"
#include "sparse/device_index.h"
#include "sparse/head_pattern.h"

// MInference for one layer of one sequence in device memory: prefill.h's steps, each on the caller's stream,
// none of which waits for the host.
namespace minference::prefill::cuda {

using minference::kernels::cuda::Stream;

// What to compute. q_len <= kv_len; float16 or bfloat16, head_dim a multiple of 8 up to 256; data pointers, head
// and row strides are multiples of 16 bytes. Only dense and A-shape heads when not causal.
struct LayerPlan {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  float softmax_scale = 1.0f;
  std::span<const sparse::HeadPattern> heads;  // host memory, [num_query_heads], at most 128
  Fallback fallback = Fallback::automatic;
  bool causal = true;
  bool share_index = false;  // query heads of a KV head share one (sparse/shared_heads.h)
};

// Throws Error naming what of the plan the device does not support.
void check_plan(const LayerPlan& plan);

// Room for tiles, columns and key blocks of a head: enough for whatever the published selection and block-sparse
// heads keep. An adaptive head may keep more columns than this; it then computes every pair, as a head that costs
// more than dense does.
struct IndexCapacity {
  std::int32_t tiles = 0, columns = 0, blocks = 0;
};
IndexCapacity capacity_for(const LayerPlan& plan);

// Device memory that build_index() writes. Null: not wanted, for those that say so.
struct IndexOutputs {
  sparse::DeviceHead* heads = nullptr;  // [num_query_heads]
  std::int32_t* tiles = nullptr;        // [num_query_heads, capacity.tiles]
  std::int32_t* columns = nullptr;      // [num_query_heads, capacity.columns]
  IndexCapacity capacity;
  std::int32_t* row_offsets = nullptr;  // [num_query_heads, row blocks + 1]; null without block-sparse heads
  std::int32_t* key_blocks = nullptr;   // [num_query_heads, capacity.blocks]
  std::int32_t* last_dense_rows = nullptr;  // [num_query_heads]; null when no head has dense rows
  std::int64_t* pairs = nullptr;            // [num_query_heads] computed pairs, each once; may be null

  // For tests: what the steps before left, of heads that were estimated; of those that share an index, all together
  // in the row of the first. May be null.
  std::int32_t* offsets = nullptr;        // [num_query_heads, offset_capacity], ascending
  std::int32_t* offset_counts = nullptr;  // [num_query_heads]
  std::int32_t offset_capacity = 0;
  float* column_sums = nullptr;    // [num_query_heads, kv_len]
  float* diagonal_sums = nullptr;  // [num_query_heads, kv_len]
};

// estimate -> select -> index for every head.
std::size_t index_workspace_bytes(const LayerPlan& plan);
void build_index(const LayerPlan& plan, const IndexOutputs& out, void* workspace, Stream stream);

// build_index, then attention over it. `value` is like key, `out` like query; every row of out (and lse) is
// written. `pairs`: [num_query_heads] as above, may be null.
struct LayerOutputs {
  base::InputHeads value;
  base::OutputHeads out;
  base::RowsView lse;
  IndexCapacity capacity;
  std::int64_t* pairs = nullptr;
};
std::size_t layer_workspace_bytes(const LayerPlan& plan, const LayerOutputs& out);
void prefill_layer(const LayerPlan& plan, const LayerOutputs& out, void* workspace, Stream stream);

}  // namespace minference::prefill::cuda
