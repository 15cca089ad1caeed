#pragma once

#include <minference/cpp/prefill.hpp>

#include <cstdint>
#include <span>
#include <utility>

namespace minference {

enum class IndexForm : std::int32_t {
  all = MINFERENCE_INDEX_ALL,
  relative = MINFERENCE_INDEX_RELATIVE,
  window = MINFERENCE_INDEX_WINDOW,
  blocks = MINFERENCE_INDEX_BLOCKS,
};

// One head of an Index; minference_index_head says how `form` reads the lists.
struct IndexHead {
  IndexForm form;
  std::span<const std::int32_t> tiles, columns;
  std::int64_t sink, local;
  std::span<const std::int64_t> row_offsets;
  std::span<const std::int32_t> key_blocks;
  std::int64_t last_dense_rows;
  std::int64_t pairs, all_pairs;
  std::int64_t memory_bytes;

  double density() const { return detail::density(pairs, all_pairs); }
};

struct IndexOptions {
  float softmax_scale = 0;  // 0: 1 / sqrt(D)
  bool causal = true;
  Fallback fallback = Fallback::automatic;
  bool share_index = false;  // as in PrefillOptions
};

// Which pairs every head computes. Immutable; may be shared by threads.
class Index {
 public:
  // columns [1, Hq, 1, num_columns] and offsets [1, Hq, 1, num_offsets], i32 or i64. Duplicates count once;
  // members outside [0, kv_len) are errors, except that offsets reach down to 1 - q_len when not causal.
  static Index vertical_slash(TensorView columns, TensorView offsets, std::int64_t q_len, std::int64_t kv_len,
                              bool causal = true) {
    return Index(
        Handle(minference_index_vertical_slash, &columns.c(), &offsets.c(), q_len, kv_len, causal ? 0 : 1));
  }

  // Runs the steps that `heads` [Hq] need. query [1, Hq, q_len, D], key [1, Hkv, kv_len, D].
  static Index create(Context& context, TensorView query, TensorView key, std::span<const HeadPattern> heads,
                      const IndexOptions& options = {}) {
    const minference_index_args args{.struct_size = sizeof args,
                                     .query = query.c(),
                                     .key = key.c(),
                                     .softmax_scale = options.softmax_scale,
                                     .non_causal = options.causal ? 0 : 1,
                                     .heads = heads.data(),
                                     .num_heads = static_cast<std::int64_t>(heads.size()),
                                     .fallback = static_cast<std::int32_t>(options.fallback),
                                     .share_index = options.share_index ? 1 : 0};
    return Index(Handle(minference_index_create, context.c(), &args));
  }

  std::int64_t num_heads() const { return minference_index_num_heads(c()); }

  // Its spans are valid as long as the index.
  IndexHead head(std::int64_t i) const {
    minference_index_head head{};
    head.struct_size = sizeof head;
    detail::check(minference_index_get(c(), i, &head));
    const auto list = [](const auto* first, std::int64_t count) {
      return std::span(first, static_cast<std::size_t>(count));
    };
    return {.form = static_cast<IndexForm>(head.form),
            .tiles = list(head.tiles, head.num_tiles),
            .columns = list(head.columns, head.num_columns),
            .sink = head.sink,
            .local = head.local,
            .row_offsets = list(head.row_offsets, head.num_row_offsets),
            .key_blocks = list(head.key_blocks, head.num_key_blocks),
            .last_dense_rows = head.last_dense_rows,
            .pairs = head.pairs,
            .all_pairs = head.all_pairs,
            .memory_bytes = head.memory_bytes};
  }

  const minference_index* c() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<minference_index, minference_index_destroy>;

  explicit Index(Handle handle) : handle_(std::move(handle)) {}

  Handle handle_;
};

}  // namespace minference
