#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/arithmetic.h"
#include "capi/heads.h"
#include "capi/sequences.h"
#include "capi/status.h"
#include "capi/tensors.h"
#include "kernels/attention/cuda/clear_rows.h"
#include "kernels/gather/cuda/gather_pages.h"
#include "kernels/index/cuda/index_cuda.h"
#include "minference/minference_cuda.h"
#include "prefill/cuda/layer.h"
#include "sparse/member_bits.h"

namespace minference::capi {
namespace {

using base::Arena;
using prefill::cuda::IndexCapacity;
using prefill::cuda::LayerPlan;
using prefill::cuda::Stream;

constexpr std::int64_t kMaxKeys = std::int64_t{1} << 27;  // of the attention kernel

void check_layer_for_cuda(const LayerTensors& layer) {
  base::require(layer.kv_len <= kMaxKeys, "key.shape[2]", "must be at most 2^27", layer.kv_len,
                base::ErrorCode::unsupported);
  base::require(layer.q_len <= layer.kv_len, "query.shape[2]",
                "must be <= key.shape[2] = " + std::to_string(layer.kv_len), layer.q_len);
}

// The copies of the kernels move 16 bytes at a time.
void check_alignment(const minference_tensor& tensor, const std::string& name) {
  constexpr std::int64_t kBytes = 16, kElements = kBytes / 2;
  base::require(reinterpret_cast<std::uintptr_t>(tensor.data) % kBytes == 0, name + ".data",
                "must be a multiple of 16", tensor.data);
  for (int i = 0; i < 3; ++i) {
    if (tensor.shape[i] > 1)
      base::require(tensor.stride[i] % kElements == 0, name + ".stride[" + std::to_string(i) + "]",
                    "must be a multiple of 8", tensor.stride[i]);
  }
}

bool checked_causal(std::int32_t non_causal) {
  base::require(non_causal == 0 || non_causal == 1, "non_causal", "must be 0 or 1", non_causal);
  return non_causal == 0;
}

float checked_positive_scale(float softmax_scale, std::int64_t head_dim) {
  const float scale = checked_softmax_scale(softmax_scale, head_dim);
  base::require(scale > 0, "softmax_scale", "must be positive on CUDA", scale, base::ErrorCode::unsupported);
  return scale;
}

void check_workspace(const void* workspace, std::size_t given, std::size_t needed) {
  base::require(given >= needed, "workspace_bytes", "must be at least " + std::to_string(needed), given);
  base::require(needed == 0 || (workspace != nullptr &&
                                reinterpret_cast<std::uintptr_t>(workspace) % Arena::kAlignment == 0),
                "workspace", "must be device memory on a 256-byte boundary", workspace);
}

IndexCapacity checked_capacity(const minference_cuda_capacity& capacity) {
  base::require(capacity.tiles >= 0, "capacity.tiles", "must be >= 0", capacity.tiles);
  base::require(capacity.columns >= 0, "capacity.columns", "must be >= 0", capacity.columns);
  return {capacity.tiles, capacity.columns};
}

// ---- minference_cuda_index

struct CheckedIndexCall {
  std::vector<sparse::HeadPattern> heads;
  LayerPlan plan;  // borrows `heads`

  explicit CheckedIndexCall(const minference_cuda_index_call* given) {
    const auto& call = checked_struct(given, "call");
    const LayerTensors layer = check_layer(call.query, call.key, nullptr, nullptr, nullptr, Memory::cuda);
    base::require(layer.batch == 1, "query.shape[0]", "must be 1", layer.batch);
    check_layer_for_cuda(layer);
    check_alignment(call.query, "query");
    check_alignment(call.key, "key");
    const bool causal = checked_causal(call.non_causal);
    heads = checked_heads(call.heads, call.num_heads, layer.num_query_heads, causal);
    plan = {.query = input_heads(call.query, 0, 0, layer.q_len),
            .key = input_heads(call.key, 0, 0, layer.kv_len),
            .softmax_scale = checked_positive_scale(call.softmax_scale, layer.head_dim),
            .heads = heads,
            .fallback = checked_fallback(call.fallback),
            .causal = causal,
            .share_index = checked_share_index(call.share_index)};
    prefill::cuda::check_plan(plan);
  }
  CheckedIndexCall(const CheckedIndexCall&) = delete;
  CheckedIndexCall& operator=(const CheckedIndexCall&) = delete;
};

void run_index(const minference_cuda_index_call& call, const LayerPlan& plan) {
  const IndexCapacity capacity = checked_capacity(call.capacity);
  not_null(call.index_heads, "index_heads");
  if (capacity.tiles > 0) not_null(call.tiles, "tiles");
  if (capacity.columns > 0) not_null(call.columns, "columns");
  for (const sparse::HeadPattern& head : plan.heads)
    if (head.last_dense_rows > 0) not_null(call.last_dense_rows, "last_dense_rows");
  const std::int32_t blocks = prefill::cuda::capacity_for(plan).blocks;
  if (blocks > 0) {
    not_null(call.row_offsets, "row_offsets");
    not_null(call.key_blocks, "key_blocks");
    base::require(call.block_capacity >= blocks, "block_capacity",
                  "must be at least " + std::to_string(blocks), call.block_capacity);
  }
  if (call.offsets != nullptr) {
    not_null(call.offset_counts, "offset_counts");
    base::require(call.offset_capacity >= 0, "offset_capacity", "must be >= 0", call.offset_capacity);
  }
  base::require((call.column_sums == nullptr) == (call.diagonal_sums == nullptr), "diagonal_sums",
                "must be NULL if and only if column_sums is", call.diagonal_sums);
  check_workspace(call.workspace, call.workspace_bytes, prefill::cuda::index_workspace_bytes(plan));
  prefill::cuda::build_index(plan,
                             {.heads = reinterpret_cast<sparse::DeviceHead*>(call.index_heads),
                              .tiles = call.tiles,
                              .columns = call.columns,
                              .capacity = {capacity.tiles, capacity.columns, call.block_capacity},
                              .row_offsets = call.row_offsets,
                              .key_blocks = call.key_blocks,
                              .last_dense_rows = call.last_dense_rows,
                              .pairs = call.pairs,
                              .offsets = call.offsets,
                              .offset_counts = call.offset_counts,
                              .offset_capacity = call.offset_capacity,
                              .column_sums = call.column_sums,
                              .diagonal_sums = call.diagonal_sums},
                             call.workspace, static_cast<Stream>(call.stream));
}

// ---- minference_cuda_vertical_slash

struct MemberWorkspace {
  std::uint32_t *columns, *offsets;
  char* index;
  std::size_t bytes;
};

MemberWorkspace take_members(const minference_cuda_vertical_slash_call& call) {
  Arena arena(call.workspace);
  const std::int64_t words = call.num_heads * sparse::member_words(call.kv_len);
  auto* columns = arena.take<std::uint32_t>(words);
  auto* offsets = arena.take<std::uint32_t>(words);
  auto* index = arena.take<char>(
      static_cast<std::int64_t>(kernels::cuda::index_workspace_bytes(call.num_heads, call.kv_len)));
  return {columns, offsets, index, arena.used()};
}

const minference_cuda_vertical_slash_call& checked(const minference_cuda_vertical_slash_call* given) {
  const auto& call = checked_struct(given, "call");
  base::require(call.kv_len >= 0 && call.kv_len <= kMaxKeys, "kv_len", "must be from 0 to 2^27", call.kv_len);
  base::require(call.q_len >= 0 && call.q_len <= call.kv_len, "q_len", "must be from 0 to kv_len",
                call.q_len);
  base::require(call.num_heads >= 1 && call.num_heads <= kernels::cuda::kMaxIndexedHeads, "num_heads",
                "must be from 1 to 128", call.num_heads);
  base::require(call.column_stride >= 0, "column_stride", "must be >= 0", call.column_stride);
  base::require(call.offset_stride >= 0, "offset_stride", "must be >= 0", call.offset_stride);
  return call;
}

void run_vertical_slash(const minference_cuda_vertical_slash_call& call) {
  if (call.column_stride > 0) not_null(call.columns, "columns");
  if (call.offset_stride > 0) not_null(call.offsets, "offsets");
  not_null(call.index_heads, "index_heads");
  const IndexCapacity capacity = checked_capacity(call.capacity);
  if (capacity.tiles > 0) not_null(call.tiles, "tiles");
  if (capacity.columns > 0) not_null(call.index_columns, "index_columns");
  const MemberWorkspace members = take_members(call);
  check_workspace(call.workspace, call.workspace_bytes, members.bytes);
  const auto stream = static_cast<Stream>(call.stream);
  kernels::cuda::mark_members({call.columns, call.num_columns, call.column_stride}, call.num_heads,
                              call.kv_len, members.columns, stream);
  kernels::cuda::mark_members({call.offsets, call.num_offsets, call.offset_stride}, call.num_heads,
                              call.kv_len, members.offsets, stream);
  std::vector<kernels::cuda::IndexPlan> plans;
  plans.reserve(static_cast<std::size_t>(call.num_heads));
  for (std::int32_t h = 0; h < call.num_heads; ++h)
    plans.push_back({.leader = h, .form = sparse::IndexForm::relative});
  kernels::cuda::build_index({.q_len = call.q_len,
                              .kv_len = call.kv_len,
                              .heads = plans,
                              .columns = members.columns,
                              .offsets = members.offsets,
                              .dense_cost = std::numeric_limits<double>::infinity(),
                              .all_pairs = sparse::count_all_pairs(call.q_len, call.kv_len, true),
                              .out_heads = reinterpret_cast<sparse::DeviceHead*>(call.index_heads),
                              .out_tiles = call.tiles,
                              .out_columns = call.index_columns,
                              .tile_capacity = capacity.tiles,
                              .column_capacity = capacity.columns,
                              .out_pairs = call.pairs},
                             members.index, stream);
}

// ---- minference_cuda_prefill

// Key or value as the checks of a layer see them: a paged cache is one batch entry after another of the most
// keys that a sequence can have.
minference_tensor unpaged(const minference_tensor& pool, const minference_cuda_prefill_call& call,
                          const std::string& name) {
  check_tensor(pool, name, {.memory = Memory::cuda});
  base::require(pool.shape[2] >= 1, name + ".shape[2]", "must be >= 1 (page_size)", pool.shape[2]);
  minference_tensor tensor = pool;
  tensor.shape[0] = call.query.shape[0];
  tensor.shape[2] =
      call.block_table_stride > kMaxKeys / pool.shape[2] ? kMaxKeys : call.block_table_stride * pool.shape[2];
  // Never used as an address: sequences' keys are gathered first.
  std::fill(tensor.stride, tensor.stride + 3, 0);
  return tensor;
}

class CheckedPrefillCall {
 public:
  explicit CheckedPrefillCall(const minference_cuda_prefill_call* given)
      : call_(checked_struct(given, "call")), paged_(call_.block_table != nullptr) {
    key_ = call_.key, value_ = call_.value;
    if (paged_) check_pages();
    layer_ = check_layer(call_.query, key_, &value_, &call_.out, &call_.lse, Memory::cuda);
    check_alignment(call_.query, "query");
    check_alignment(call_.key, "key");
    check_alignment(call_.value, "value");
    check_alignment(call_.out, "out");
    base::require(layer_.kv_len <= kMaxKeys, "key.shape[2]", "must be at most 2^27", layer_.kv_len,
                  base::ErrorCode::unsupported);
    causal_ = checked_causal(call_.non_causal);
    heads_ = checked_heads(call_.heads, call_.num_heads, layer_.num_query_heads, causal_);
    softmax_scale_ = checked_positive_scale(call_.softmax_scale, layer_.head_dim);
    fallback_ = checked_fallback(call_.fallback);
    share_index_ = checked_share_index(call_.share_index);
    base::require(call_.column_capacity >= 0, "column_capacity", "must be >= 0", call_.column_capacity);
    sequences_ = checked_sequences(call_.sequences, call_.num_sequences, layer_, causal_);
    for (const minference_sequence& s : sequences_)
      base::require(s.q_len <= s.kv_len, "q_len",
                    "must be <= kv_len = " + std::to_string(s.kv_len) + " on CUDA", s.q_len,
                    base::ErrorCode::unsupported);
    order_ = in_row_order(sequences_);
    for (const std::size_t i : order_) {
      longest_ = std::max(longest_, sequences_[i].kv_len);
      base::require(!paged_ || sequences_[i].kv_begin == 0, "sequences[" + std::to_string(i) + "].kv_begin",
                    "must be 0 with a block table", sequences_[i].kv_begin);
    }
    prefill::cuda::check_plan(plan_of({.kv_len = longest_}, {}));
  }
  CheckedPrefillCall(const CheckedPrefillCall&) = delete;
  CheckedPrefillCall& operator=(const CheckedPrefillCall&) = delete;

  // Sequences share one workspace, in the stream's order.
  std::size_t workspace_bytes() const {
    Arena arena(nullptr);
    const Gathered gathered = take_gathered(arena);
    std::size_t bytes = 0;
    for (const std::size_t i : order_) {
      const LayerPlan plan = plan_of(sequences_[i], gathered);
      bytes = std::max(bytes, prefill::cuda::layer_workspace_bytes(plan, outputs_of(i, plan, gathered)));
    }
    return arena.used() + bytes;
  }

  void run() const {
    check_workspace(call_.workspace, call_.workspace_bytes, workspace_bytes());
    const auto stream = static_cast<Stream>(call_.stream);
    Arena arena(call_.workspace);
    const Gathered gathered = take_gathered(arena);
    for (const std::size_t i : order_) {
      if (paged_) {
        gather(call_.key, gathered.key, i, stream);
        gather(call_.value, gathered.value, i, stream);
      }
      const LayerPlan plan = plan_of(sequences_[i], gathered);
      prefill::cuda::prefill_layer(plan, outputs_of(i, plan, gathered),
                                   static_cast<char*>(call_.workspace) + arena.used(), stream);
    }
    for_each_gap(layer_, sequences_, order_, [&](std::int64_t batch, std::int64_t begin, std::int64_t end) {
      kernels::cuda::clear_rows(output_heads(call_.out, batch, begin, end - begin),
                                row_values(layer_.lse, batch, begin), stream);
    });
  }

 private:
  // Keys and values of one sequence of a paged cache, dense.
  struct Gathered {
    std::uint16_t *key = nullptr, *value = nullptr;
  };

  void check_pages() {
    not_null(call_.sequences, "sequences");
    base::require(call_.block_table_stride >= 0, "block_table_stride", "must be >= 0",
                  call_.block_table_stride);
    base::require(call_.key.shape[2] == call_.value.shape[2], "value.shape[2]",
                  "must be key.shape[2] = " + std::to_string(call_.key.shape[2]) + " (page_size)",
                  call_.value.shape[2]);
    key_ = unpaged(call_.key, call_, "key");
    value_ = unpaged(call_.value, call_, "value");
  }

  Gathered take_gathered(Arena& arena) const {
    if (!paged_) return {};
    const std::int64_t elements = layer_.num_kv_heads * longest_ * layer_.head_dim;
    auto* key = arena.take<std::uint16_t>(elements);
    return {key, arena.take<std::uint16_t>(elements)};
  }

  template <class Data, class Element>
  base::HeadsView<Data> gathered_heads(Element* data, std::int64_t kv_len) const {
    return {data,           layer_.dtype,    layer_.num_kv_heads,
            kv_len,         layer_.head_dim, kv_len * layer_.head_dim,
            layer_.head_dim};
  }

  void gather(const minference_tensor& pool, std::uint16_t* to, std::size_t i, Stream stream) const {
    kernels::cuda::gather_pages(
        {.first = input_heads(pool, 0, 0, pool.shape[2]),
         .page_stride = pool.stride[0],
         .table = call_.block_table + static_cast<std::int64_t>(i) * call_.block_table_stride},
        gathered_heads<void>(to, sequences_[i].kv_len), stream);
  }

  base::InputHeads keys_of(const minference_sequence& s, const minference_tensor& tensor,
                           const std::uint16_t* gathered) const {
    return paged_ ? gathered_heads<const void>(gathered, s.kv_len)
                  : input_heads(tensor, s.batch, s.kv_begin, s.kv_len);
  }

  LayerPlan plan_of(const minference_sequence& s, const Gathered& gathered) const {
    return {.query = input_heads(call_.query, s.batch, s.q_begin, s.q_len),
            .key = keys_of(s, call_.key, gathered.key),
            .softmax_scale = softmax_scale_,
            .heads = heads_,
            .fallback = fallback_,
            .causal = causal_,
            .share_index = share_index_};
  }

  prefill::cuda::LayerOutputs outputs_of(std::size_t i, const LayerPlan& plan,
                                         const Gathered& gathered) const {
    const minference_sequence& s = sequences_[i];
    IndexCapacity capacity = prefill::cuda::capacity_for(plan);
    if (call_.column_capacity > 0) capacity.columns = call_.column_capacity;
    return {.value = keys_of(s, call_.value, gathered.value),
            .out = output_heads(call_.out, s.batch, s.q_begin, s.q_len),
            .lse = row_values(layer_.lse, s.batch, s.q_begin),
            .capacity = capacity,
            .pairs = call_.pairs == nullptr
                         ? nullptr
                         : call_.pairs + static_cast<std::int64_t>(i) * layer_.num_query_heads};
  }

  const minference_cuda_prefill_call& call_;
  const bool paged_;
  minference_tensor key_ = {}, value_ = {};
  LayerTensors layer_ = {};
  std::vector<sparse::HeadPattern> heads_;
  float softmax_scale_ = 1.0f;
  bool causal_ = true;
  prefill::Fallback fallback_ = prefill::Fallback::automatic;
  bool share_index_ = false;
  std::vector<minference_sequence> sequences_;
  std::vector<std::size_t> order_;
  std::int64_t longest_ = 0;  // keys of a sequence
};

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_cuda_index_capacity(const minference_cuda_index_call* call,
                                                 minference_cuda_capacity* capacity) {
  return capi::guarded([&] {
    capi::not_null(capacity, "capacity");
    const capi::CheckedIndexCall checked(call);
    const prefill::cuda::IndexCapacity wanted = prefill::cuda::capacity_for(checked.plan);
    *capacity = minference_cuda_capacity{wanted.tiles, wanted.columns};
  });
}

minference_status minference_cuda_index_workspace(const minference_cuda_index_call* call, size_t* bytes) {
  return capi::guarded([&] {
    capi::not_null(bytes, "bytes");
    *bytes = prefill::cuda::index_workspace_bytes(capi::CheckedIndexCall(call).plan);
  });
}

minference_status minference_cuda_index(const minference_cuda_index_call* call) {
  return capi::guarded([&] {
    const capi::CheckedIndexCall checked(call);
    capi::run_index(*call, checked.plan);
  });
}

minference_status minference_cuda_vertical_slash_workspace(const minference_cuda_vertical_slash_call* call,
                                                           size_t* bytes) {
  return capi::guarded([&] {
    capi::not_null(bytes, "bytes");
    *bytes = capi::take_members(capi::checked(call)).bytes;
  });
}

minference_status minference_cuda_vertical_slash(const minference_cuda_vertical_slash_call* call) {
  return capi::guarded([&] { capi::run_vertical_slash(capi::checked(call)); });
}

minference_status minference_cuda_prefill_workspace(const minference_cuda_prefill_call* call, size_t* bytes) {
  return capi::guarded([&] {
    capi::not_null(bytes, "bytes");
    *bytes = capi::CheckedPrefillCall(call).workspace_bytes();
  });
}

minference_status minference_cuda_prefill(const minference_cuda_prefill_call* call) {
  return capi::guarded([&] { capi::CheckedPrefillCall(call).run(); });
}

}  // extern "C"
