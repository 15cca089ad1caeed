// MInference in C++: the C ABI of libminference with types, ownership and exceptions. Header-only.
//
// Every function throws minference::Error when the library refuses; the message has the form "name rule, got
// value". Shapes use B batch, Hq query heads, Hkv key/value heads (Hq % Hkv == 0), D head_dim. Strides are in
// elements, and the last dimension is contiguous. Views borrow: what they point to must outlive the call, and
// outputs alias no input. minference.h has the contract of each step in full.
#pragma once

#include <minference/minference.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace minference {

// ---- Errors
// ---------------------------------------------------------------------------------------------------------

enum class Status {
  invalid_argument = MINFERENCE_INVALID_ARGUMENT,
  unsupported = MINFERENCE_UNSUPPORTED,
  out_of_memory = MINFERENCE_OUT_OF_MEMORY,
  busy = MINFERENCE_BUSY,
  io = MINFERENCE_IO,
  internal = MINFERENCE_INTERNAL,
};

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  Status status() const noexcept { return status_; }

 private:
  Status status_;
};

namespace detail {

inline void check(minference_status status) {
  if (status != MINFERENCE_OK) throw Error(static_cast<Status>(status), minference_last_error());
}

// 1 where there is no pair to leave out.
inline double density(std::int64_t pairs, std::int64_t all_pairs) {
  return all_pairs > 0 ? static_cast<double>(pairs) / static_cast<double>(all_pairs) : 1;
}

// Elements to make room for before the library has seen the extents; it refuses negative ones by name.
inline std::size_t room(std::int64_t a, std::int64_t b) {
  return a > 0 && b > 0 ? static_cast<std::size_t>(a) * static_cast<std::size_t>(b) : 0;
}

template <auto destroy>
struct Deleter {
  template <class Handle>
  void operator()(Handle* handle) const noexcept {
    destroy(handle);
  }
};

}  // namespace detail

// The version of the loaded library, such as "0.1.0".
inline std::string_view version() {
  return minference_version();
}

// ---- Tensors
// --------------------------------------------------------------------------------------------------------

enum class DType : std::int32_t {
  f32 = MINFERENCE_F32,
  f16 = MINFERENCE_F16,
  bf16 = MINFERENCE_BF16,
  i32 = MINFERENCE_I32,
  i64 = MINFERENCE_I64,
};

using Extents = std::array<std::int64_t, 4>;

// The DType of a C++ element type. f16 and bf16 have none in C++20: name theirs.
template <class Element>
constexpr DType dtype_of() {
  static_assert(std::is_same_v<Element, float> || std::is_same_v<Element, std::int32_t> ||
                    std::is_same_v<Element, std::int64_t>,
                "name the DType of elements other than float, int32_t and int64_t");
  if constexpr (std::is_same_v<Element, float>) return DType::f32;
  if constexpr (std::is_same_v<Element, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<Element, std::int64_t>) return DType::i64;
}

// Four dimensions in host memory; default-constructed: absent, where an argument allows that. `Data` is void
// for tensors that the library writes and const void for those it reads.
template <class Data>
class BasicTensorView {
 public:
  BasicTensorView() = default;

  // Contiguous.
  BasicTensorView(Data* data, DType dtype, Extents shape)
      : BasicTensorView(data, dtype, shape,
                        {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1}) {}

  // `stride` in elements, stride[3] == 1.
  BasicTensorView(Data* data, DType dtype, Extents shape, Extents stride) {
    tensor_.data = const_cast<void*>(static_cast<const void*>(data));
    for (std::size_t i = 0; i < shape.size(); ++i) {
      tensor_.shape[i] = shape[i];
      tensor_.stride[i] = stride[i];
    }
    tensor_.dtype = static_cast<std::int32_t>(dtype);
  }

  // Contiguous, over a vector, array or span of float, int32_t or int64_t: TensorView(values, {1, 8, 4096,
  // 128}).
  template <std::ranges::contiguous_range Range>
  requires std::ranges::sized_range<Range> && std::ranges::borrowed_range<Range> &&
      std::is_convertible_v<decltype(std::ranges::data(std::declval<Range&>())), Data*>
      BasicTensorView(Range&& values, Extents shape)
      : BasicTensorView(std::ranges::data(values), dtype_of<std::ranges::range_value_t<Range>>(), shape) {
    const std::int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    if (std::cmp_not_equal(std::ranges::size(values), count))
      throw Error(Status::invalid_argument, "values.size() must be the shape's " + std::to_string(count) +
                                                ", got " + std::to_string(std::ranges::size(values)));
  }

  // What may be written may be read. A template, lest it be the copy constructor of MutableTensorView.
  template <std::same_as<void> Other>
  BasicTensorView(const BasicTensorView<Other>& other) requires std::is_const_v<Data> : tensor_(other.c()) {}

  // [B, length, H, D] memory, as many engines keep it, seen as [B, H, length, D].
  static BasicTensorView length_first(Data* data, DType dtype, Extents shape) {
    const auto [batch, heads, length, dim] = shape;
    return {data, dtype, shape, {length * heads * dim, dim, heads * dim, 1}};
  }

  const minference_tensor& c() const noexcept { return tensor_; }

 private:
  minference_tensor tensor_{};
};

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

// One sequence inside [B, H, length, D] tensors; fields batch, q_begin, q_len, kv_begin, kv_len.
using Sequence = minference_sequence;

// ---- Context
// --------------------------------------------------------------------------------------------------------

struct ContextOptions {
  std::int32_t num_threads = 0;               // 0: as many as CPUs this process may use
  std::span<const std::int32_t> cpus = {};    // thread i runs on cpus[i % size]; empty: not pinned
  std::string isa = {};                       // "": environment variable MINFERENCE_ISA, else the best here
  minference_parallel_for parallel_for = {};  // the caller's own threads instead of a pool
  void* parallel_for_state = nullptr;
};

// Threads and instruction set. One call at a time: a second one, from any thread, throws Status::busy. Moves,
// never copies; one that was moved from has no threads, isa() "", and calls refuse it.
class Context {
 public:
  explicit Context(const ContextOptions& options = {}) {
    if (minference_abi_version() != MINFERENCE_ABI_VERSION)
      throw Error(Status::unsupported, "libminference's ABI version must be " +
                                           std::to_string(MINFERENCE_ABI_VERSION) + ", got " +
                                           std::to_string(minference_abi_version()));
    const minference_context_options given{.struct_size = sizeof given,
                                           .num_threads = options.num_threads,
                                           .num_cpus = static_cast<std::int32_t>(options.cpus.size()),
                                           .cpus = options.cpus.data(),
                                           .isa = options.isa.c_str(),
                                           .parallel_for = options.parallel_for,
                                           .parallel_for_state = options.parallel_for_state};
    minference_context* made = nullptr;
    detail::check(minference_context_create(&given, &made));
    handle_.reset(made);
  }

  std::int32_t num_threads() const { return minference_context_num_threads(c()); }
  std::string_view isa() const { return c() ? minference_context_isa(c()) : std::string_view(); }
  minference_context* c() const noexcept { return handle_.get(); }

 private:
  std::unique_ptr<minference_context, detail::Deleter<minference_context_destroy>> handle_;
};

// The kernel that `step` ("attention" or "estimate") picks, such as "avx512bf16"; `isa` as in ContextOptions.
// Every refusal is Status::invalid_argument.
inline std::string_view kernel_name(const char* step, DType dtype, std::int64_t head_dim,
                                    const char* isa = nullptr) {
  const char* name = minference_kernel_name(step, isa, static_cast<std::int32_t>(dtype), head_dim);
  if (!name) throw Error(Status::invalid_argument, minference_last_error());
  return name;
}

// ---- Head patterns
// --------------------------------------------------------------------------------------------------

// What one query head computes. `last_dense_rows` of the call's last rows are computed densely whatever the
// pattern.
using HeadPattern = minference_head_pattern;

// Every causal pair.
constexpr HeadPattern dense() {
  return {MINFERENCE_DENSE, {0, 0}, 0, 0};
}

// Keys k < sink, and keys with 0 <= q - k < local. With last_dense_rows it is TriShape.
constexpr HeadPattern a_shape(std::int32_t sink, std::int32_t local, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_A_SHAPE, {sink, local}, last_dense_rows, 0};
}

// The `vertical` best columns and `slash` best diagonals, as MInference 1.0 selects them.
constexpr HeadPattern vertical_slash(std::int32_t vertical, std::int32_t slash,
                                     std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_VERTICAL_SLASH, {vertical, slash}, last_dense_rows, 0};
}

// The `top_k` best 64-key blocks of every 64-row block.
constexpr HeadPattern block_sparse(std::int32_t top_k, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_BLOCK_SPARSE, {top_k, 0}, last_dense_rows, 0};
}

// Vertical-slash that keeps `share` (0 < share <= 1) of the estimated attention mass.
constexpr HeadPattern adaptive(double share = 0.95, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_ADAPTIVE, {0, 0}, last_dense_rows, static_cast<std::int32_t>(share * 1e6 + 0.5)};
}

// The patterns of every head of every layer of a model. Immutable; may be shared by threads.
class Patterns {
 public:
  // Our JSON or MInference 1.0's. Throws Status::io when the file cannot be read, Status::invalid_argument
  // where it breaks a rule.
  static Patterns load(const std::string& path) {
    return make([&](minference_patterns** made) { return minference_patterns_load(path.c_str(), made); });
  }
  // The same from memory; `name` begins the messages.
  static Patterns parse(std::string_view text, const std::string& name) {
    return make([&](minference_patterns** made) {
      return minference_patterns_parse(text.data(), text.size(), name.c_str(), made);
    });
  }
  // The set compiled into the library for a hub id; see supported_models().
  static Patterns builtin(const std::string& model) {
    return make([&](minference_patterns** made) { return minference_patterns_builtin(model.c_str(), made); });
  }
  // heads [num_layers, heads.size() / num_layers].
  static Patterns create(std::int64_t num_layers, std::span<const HeadPattern> heads,
                         const std::string& source = {}) {
    const auto count = static_cast<std::int64_t>(heads.size());
    if (num_layers < 1 || count % num_layers != 0)
      throw Error(Status::invalid_argument, "num_layers must divide heads.size() = " + std::to_string(count) +
                                                ", got " + std::to_string(num_layers));
    return make([&](minference_patterns** made) {
      return minference_patterns_create(num_layers, count / num_layers, heads.data(), source.c_str(), made);
    });
  }

  std::int64_t num_layers() const { return minference_patterns_num_layers(c()); }
  std::int64_t num_query_heads() const { return minference_patterns_num_query_heads(c()); }
  // Where the set came from, as its file says.
  std::string_view source() const { return minference_patterns_source(c()); }
  // The num_query_heads() patterns of one layer.
  std::vector<HeadPattern> layer(std::int64_t i) const {
    std::vector<HeadPattern> heads(static_cast<std::size_t>(num_query_heads()));
    detail::check(minference_patterns_layer(c(), i, heads.data()));
    return heads;
  }
  // Throws, naming both counts, unless the set has exactly these.
  void check(std::int64_t num_layers, std::int64_t num_query_heads) const {
    detail::check(minference_patterns_check(c(), num_layers, num_query_heads));
  }
  // Our JSON; valid as long as the set.
  std::string_view json() const {
    const char* text = nullptr;
    detail::check(minference_patterns_json(c(), &text));
    return text;
  }
  // Written to a temporary file beside `path`, then renamed.
  void save(const std::string& path) const { detail::check(minference_patterns_save(c(), path.c_str())); }

  const minference_patterns* c() const noexcept { return handle_.get(); }

 private:
  template <class Create>
  static Patterns make(Create create) {
    Patterns patterns;
    minference_patterns* made = nullptr;
    detail::check(create(&made));
    patterns.handle_.reset(made);
    return patterns;
  }

  Patterns() = default;
  std::unique_ptr<minference_patterns, detail::Deleter<minference_patterns_destroy>> handle_;
};

// Hub ids with a built-in set, sorted.
inline std::vector<std::string> supported_models() {
  std::vector<std::string> models;
  for (std::int64_t i = 0; i < minference_builtin_count(); ++i)
    models.emplace_back(minference_builtin_model(i));
  return models;
}

// ---- A whole layer
// --------------------------------------------------------------------------------------------------

enum class Fallback : std::int32_t {
  automatic =
      MINFERENCE_FALLBACK_AUTO,   // short calls, and heads whose index costs more than dense, run densely
  off = MINFERENCE_FALLBACK_OFF,  // always what the pattern says
};

struct Statistics {
  double seconds_estimate = 0, seconds_select = 0, seconds_index = 0, seconds_attend = 0;
  std::int64_t pairs = 0;                   // computed pairs, each once, over sequences and heads
  std::int64_t all_pairs = 0;               // of the same rows, causal ones when causal
  std::vector<double> head_density;         // [num_sequences, Hq]
  std::vector<std::int32_t> head_fallback;  // [num_sequences, Hq]: 1 where the head ran densely by fallback

  // 1 where there is no pair.
  double density() const { return detail::density(pairs, all_pairs); }
};

struct PrefillOptions {
  float softmax_scale = 0;                   // 0: 1 / sqrt(D)
  bool causal = true;                        // false: dense, A-shape and block-sparse only
  std::span<const Sequence> sequences = {};  // empty: every batch entry whole
  Fallback fallback = Fallback::automatic;
  MutableTensorView lse = {};  // [B, Hq, q_len, 1] f32, natural log, -inf for a row without keys
};

// Estimates, selects, indexes and attends, for all heads of one layer.
//
//   query  [B, Hq, q_len, D]    f32, f16 or bf16
//   key    [B, Hkv, kv_len, D]  like query; value too
//   out    like query           rows in no sequence get 0 (and lse -inf)
//   heads  [Hq]
//
// Query row i of a sequence stands at position kv_len - q_len + i; 0 <= q_len <= kv_len when causal.
inline Statistics prefill(Context& context, TensorView query, TensorView key, TensorView value,
                          MutableTensorView out, std::span<const HeadPattern> heads,
                          const PrefillOptions& options = {}) {
  const bool whole = options.sequences.empty();
  const std::int64_t num_sequences =
      whole ? query.c().shape[0] : static_cast<std::int64_t>(options.sequences.size());
  Statistics result;
  result.head_density.resize(detail::room(num_sequences, static_cast<std::int64_t>(heads.size())));
  result.head_fallback.resize(result.head_density.size());
  const minference_prefill_args args{.struct_size = sizeof args,
                                     .query = query.c(),
                                     .key = key.c(),
                                     .value = value.c(),
                                     .out = out.c(),
                                     .lse = options.lse.c(),
                                     .softmax_scale = options.softmax_scale,
                                     .non_causal = options.causal ? 0 : 1,
                                     .sequences = whole ? nullptr : options.sequences.data(),
                                     .num_sequences = whole ? 0 : num_sequences,
                                     .heads = heads.data(),
                                     .num_heads = static_cast<std::int64_t>(heads.size()),
                                     .fallback = static_cast<std::int32_t>(options.fallback)};
  minference_statistics statistics{};
  statistics.struct_size = sizeof statistics;
  statistics.head_density = result.head_density.data();
  statistics.head_fallback = result.head_fallback.data();
  detail::check(minference_prefill(context.c(), &args, &statistics));
  result.seconds_estimate = statistics.seconds_estimate;
  result.seconds_select = statistics.seconds_select;
  result.seconds_index = statistics.seconds_index;
  result.seconds_attend = statistics.seconds_attend;
  result.pairs = statistics.pairs;
  result.all_pairs = statistics.all_pairs;
  return result;
}

// ---- The steps, one by one: one sequence, B == 1
// ----------------------------------------------------------------------

// Attention mass of the last min(64, q_len) rows, summed down columns and along diagonals.
struct Estimate {
  std::int64_t num_heads = 0, kv_len = 0;
  std::vector<float> column_sums;    // [num_heads, kv_len]
  std::vector<float> diagonal_sums;  // [num_heads, kv_len]: entry o sums over the keys `o` before the query
};

// query [1, Hq, q_len, D], key [1, Hkv, kv_len, D]; softmax_scale 0: 1 / sqrt(D).
inline Estimate estimate(Context& context, TensorView query, TensorView key, float softmax_scale = 0) {
  Estimate result;
  result.num_heads = query.c().shape[1];
  result.kv_len = key.c().shape[2];
  const Extents shape{1, result.num_heads, 1, result.kv_len};
  result.column_sums.resize(detail::room(result.num_heads, result.kv_len));
  result.diagonal_sums.resize(result.column_sums.size());
  const minference_estimate_args args{
      .struct_size = sizeof args,
      .query = query.c(),
      .key = key.c(),
      .column_sums = MutableTensorView(result.column_sums.data(), DType::f32, shape).c(),
      .diagonal_sums = MutableTensorView(result.diagonal_sums.data(), DType::f32, shape).c(),
      .softmax_scale = softmax_scale};
  detail::check(minference_estimate(context.c(), &args));
  return result;
}

// One head's vertical columns (key positions) and slash offsets (query minus key position), ascending and
// unique.
struct Members {
  std::vector<std::int32_t> columns, offsets;
};

// heads [num_heads], vertical-slash or adaptive. One Members a head.
inline std::vector<Members> select(Context& context, const Estimate& estimate,
                                   std::span<const HeadPattern> heads) {
  const Extents shape{1, estimate.num_heads, 1, estimate.kv_len};
  // A head has at most kv_len members of either kind; pages that no member reaches stay untouched.
  const auto capacity = static_cast<std::size_t>(estimate.kv_len);
  const auto columns = std::make_unique_for_overwrite<std::int32_t[]>(heads.size() * capacity);
  const auto offsets = std::make_unique_for_overwrite<std::int32_t[]>(heads.size() * capacity);
  std::vector<std::int64_t> column_counts(heads.size()), offset_counts(heads.size());
  const minference_select_args args{.struct_size = sizeof args,
                                    .column_sums = TensorView(estimate.column_sums, shape).c(),
                                    .diagonal_sums = TensorView(estimate.diagonal_sums, shape).c(),
                                    .heads = heads.data(),
                                    .num_heads = static_cast<std::int64_t>(heads.size()),
                                    .columns = columns.get(),
                                    .column_capacity = estimate.kv_len,
                                    .column_counts = column_counts.data(),
                                    .offsets = offsets.get(),
                                    .offset_capacity = estimate.kv_len,
                                    .offset_counts = offset_counts.data()};
  detail::check(minference_select(context.c(), &args));
  std::vector<Members> members(heads.size());
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const std::int32_t *first_column = columns.get() + h * capacity,
                       *first_offset = offsets.get() + h * capacity;
    members[h].columns.assign(first_column, first_column + column_counts[h]);
    members[h].offsets.assign(first_offset, first_offset + offset_counts[h]);
  }
  return members;
}

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
};

// Which pairs every head computes. Immutable; may be shared by threads.
class Index {
 public:
  // columns [1, Hq, 1, num_columns] and offsets [1, Hq, 1, num_offsets], i32 or i64. Duplicates count once;
  // members outside [0, kv_len) are errors, except that offsets reach down to 1 - q_len when not causal.
  static Index vertical_slash(TensorView columns, TensorView offsets, std::int64_t q_len, std::int64_t kv_len,
                              bool causal = true) {
    return make([&](minference_index** made) {
      return minference_index_vertical_slash(&columns.c(), &offsets.c(), q_len, kv_len, causal ? 0 : 1, made);
    });
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
                                     .fallback = static_cast<std::int32_t>(options.fallback)};
    return make([&](minference_index** made) { return minference_index_create(context.c(), &args, made); });
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
  template <class Create>
  static Index make(Create create) {
    Index index;
    minference_index* made = nullptr;
    detail::check(create(&made));
    index.handle_.reset(made);
    return index;
  }

  Index() = default;
  std::unique_ptr<minference_index, detail::Deleter<minference_index_destroy>> handle_;
};

struct AttentionOptions {
  float softmax_scale = 0;     // 0: 1 / sqrt(D)
  MutableTensorView lse = {};  // [1, Hq, q_len, 1] f32, natural log, -inf for a row without keys
};

// softmax(query key^T) value over exactly the pairs of `index`: adds no members, never falls back. Shapes as
// in prefill() with B == 1; q_len, kv_len and Hq must be those the index was made for.
inline void attention(Context& context, TensorView query, TensorView key, TensorView value,
                      MutableTensorView out, const Index& index, const AttentionOptions& options = {}) {
  const minference_attention_args args{.struct_size = sizeof args,
                                       .query = query.c(),
                                       .key = key.c(),
                                       .value = value.c(),
                                       .out = out.c(),
                                       .lse = options.lse.c(),
                                       .softmax_scale = options.softmax_scale,
                                       .index = index.c()};
  detail::check(minference_attention(context.c(), &args));
}

}  // namespace minference
