// Randomised calls through the C ABI with exactly one wrong argument: each must be refused with a message that begins with
// that argument's name, and write nothing.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "capi/spoil.h"
#include "capi/testing.h"

namespace minference::capi {
namespace {

using namespace testing;

// One wrong argument: makes it wrong and returns its name.
using Spoil = std::function<std::string()>;

class RandomCalls {
 public:
  explicit RandomCalls(std::uint64_t seed) : random_(seed), context_(testing::context(1)) {
    layer_.set_heads({MINFERENCE_VERTICAL_SLASH, {10, 10}});
    minference_index_args args{.struct_size = sizeof args,
                               .query = layer_.args.query,
                               .key = layer_.args.key,
                               .heads = layer_.heads.data(),
                               .num_heads = 4};
    index_ = made<minference_index>(minference_index_create, context_.get(), &args);
    minference_tensor members{members_.data(), {1, 4, 1, 4}, {16, 4, 4, 1}, MINFERENCE_I32, 0};
    other_index_ = made<minference_index>(minference_index_vertical_slash, &members, &members, 63, 64, 0);
    patterns_ = made<minference_patterns>(minference_patterns_create, 1, 4, layer_.heads.data(), "");
  }
  ~RandomCalls() {
    minference_index_destroy(index_);
    minference_index_destroy(other_index_);
    minference_patterns_destroy(patterns_);
  }

  // Every function of the C ABI that checks arguments, in turn.
  void call(int i) {
    using Function = void (RandomCalls::*)();
    static constexpr Function kFunctions[] = {
        &RandomCalls::prefill,       &RandomCalls::estimate,       &RandomCalls::select,
        &RandomCalls::index_create,  &RandomCalls::vertical_slash, &RandomCalls::index_get,
        &RandomCalls::attention,     &RandomCalls::score_patterns, &RandomCalls::fit_patterns,
        &RandomCalls::make_patterns, &RandomCalls::use_patterns,   &RandomCalls::context_create,
        &RandomCalls::kernel_name,   &RandomCalls::gather};
    (this->*kFunctions[static_cast<std::size_t>(i) % std::size(kFunctions)])();
  }

  int refused() const { return refused_; }

 private:
  void prefill() {
    auto args = layer_.args;
    auto result = blank_result(layer_, args.out, args.lse);
    std::vector<minference_sequence> sequences = {{0, 3, 20, 3, 30}, {0, 30, 10, 33, 10}};
    args.sequences = sequences.data();
    args.num_sequences = 2;
    auto heads = layer_.heads;
    args.heads = heads.data();
    const auto* args_pointer = &args;
    auto* context = context_.get();
    spoil({[&] { return spoil_size(random_, args); },
           [&] { return spoil_tensor(random_, args.query, "query", {3}); },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] {
             return spoil_tensor(random_, args.value, "value", {0, 1, 2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.out, "out", {0, 1, 2, 3}, true);
           },
           [&] { return wrong("lse.dtype", args.lse.dtype, outside32(random_, 1, 1)); },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("num_heads", args.num_heads, outside(random_, 4, 4)); },
           [&] { return wrong("heads", args.heads, nullptr); }, [&] { return spoil_head(random_, heads); },
           [&] { return wrong("num_sequences", args.num_sequences, -pick(random_, 1, INT64_MAX)); },
           [&] { return spoil_sequence(random_, sequences); },
           [&] { return wrong("fallback", args.fallback, outside32(random_, 0, 1)); },
           [&] { return wrong("share_index", args.share_index, outside32(random_, 0, 1)); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); }});
    expect_refused(minference_prefill(context, args_pointer, nullptr));
    expect_unwritten(result.out);
    expect_unwritten(result.lse);
  }

  void estimate() {
    std::vector<float> columns(4 * 64, NAN), diagonals(4 * 64, NAN);
    minference_estimate_args args{.struct_size = sizeof args,
                                  .query = layer_.args.query,
                                  .key = layer_.args.key,
                                  .column_sums = sums(columns),
                                  .diagonal_sums = sums(diagonals)};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    spoil({[&] { return spoil_size(random_, args); },
           [&] {
             return spoil_tensor(random_, args.query, "query", {2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] {
             return spoil_tensor(random_, args.column_sums, "column_sums", {0, 1, 2, 3}, true);
           },
           [&] {
             return spoil_tensor(random_, args.diagonal_sums, "diagonal_sums", {0, 1, 2, 3}, true);
           },
           [&] { return wrong("diagonal_sums.stride[1]", args.diagonal_sums.stride[1], 65); },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); }});
    expect_refused(minference_estimate(context, args_pointer));
    expect_unwritten(columns);
    expect_unwritten(diagonals);
  }

  void select() {
    std::vector<float> columns(4 * 64, 1), diagonals(4 * 64, 1);
    std::vector<std::int32_t> column_list(4 * 64, -7), offset_list(4 * 64, -7);
    std::vector<std::int64_t> column_counts(4), offset_counts(4);
    auto heads = layer_.heads;
    minference_select_args args{.struct_size = sizeof args,
                                .column_sums = sums(columns),
                                .diagonal_sums = sums(diagonals),
                                .heads = heads.data(),
                                .num_heads = 4,
                                .columns = column_list.data(),
                                .column_capacity = 64,
                                .column_counts = column_counts.data(),
                                .offsets = offset_list.data(),
                                .offset_capacity = 64,
                                .offset_counts = offset_counts.data()};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    // Below 10, or negative, where the smallest number of members is 10.
    const auto capacity = [&] {
      return pick(random_, 0, 1) ? pick(random_, 0, 9) : -pick(random_, 1, INT64_MAX);
    };
    spoil({[&] { return spoil_size(random_, args); },
           [&] {
             return spoil_tensor(random_, args.column_sums, "column_sums", {0, 2});
           },
           [&] {
             return spoil_tensor(random_, args.diagonal_sums, "diagonal_sums", {0, 1, 2, 3});
           },
           [&] { return wrong("num_heads", args.num_heads, outside(random_, 4, 4)); },
           [&] { return wrong("heads", args.heads, nullptr); }, [&] { return spoil_head(random_, heads); },
           [&] { return wrong("heads[2].pattern", heads[2].pattern, std::int32_t{MINFERENCE_A_SHAPE}); },
           [&] { return wrong("columns", args.columns, nullptr); },
           [&] { return wrong("offsets", args.offsets, nullptr); },
           [&] { return wrong("column_counts", args.column_counts, nullptr); },
           [&] { return wrong("offset_counts", args.offset_counts, nullptr); },
           [&] { return wrong("column_capacity", args.column_capacity, capacity()); },
           [&] { return wrong("offset_capacity", args.offset_capacity, capacity()); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); }});
    expect_refused(minference_select(context, args_pointer));
    ASSERT_EQ(column_list, std::vector<std::int32_t>(4 * 64, -7)) << wrong_;
    ASSERT_EQ(offset_list, std::vector<std::int32_t>(4 * 64, -7)) << wrong_;
  }

  void index_create() {
    auto heads = layer_.heads;
    minference_index_args args{.struct_size = sizeof args,
                               .query = layer_.args.query,
                               .key = layer_.args.key,
                               .heads = heads.data(),
                               .num_heads = 4};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    minference_index* index = nullptr;
    auto** target = &index;
    spoil({[&] { return spoil_size(random_, args); },
           [&] {
             return spoil_tensor(random_, args.query, "query", {2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("num_heads", args.num_heads, outside(random_, 4, 4)); },
           [&] { return wrong("heads", args.heads, nullptr); }, [&] { return spoil_head(random_, heads); },
           [&] { return wrong("heads[0].pattern", args.non_causal, 1); },
           [&] { return wrong("fallback", args.fallback, outside32(random_, 0, 1)); },
           [&] { return wrong("share_index", args.share_index, outside32(random_, 0, 1)); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); },
           [&] { return wrong("index", target, nullptr); }});
    expect_refused(minference_index_create(context, args_pointer, target));
    ASSERT_EQ(index, nullptr) << wrong_;
  }

  void vertical_slash() {
    std::vector<std::int32_t> columns(8), offsets(8);
    for (std::size_t i = 0; i < 8; ++i)
      columns[i] = offsets[i] = static_cast<std::int32_t>(pick(random_, 0, 63));
    minference_tensor column_tensor{columns.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    minference_tensor offset_tensor{offsets.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    const minference_tensor *column_pointer = &column_tensor, *offset_pointer = &offset_tensor;
    std::int64_t q_len = 40, kv_len = 64;
    minference_index* index = nullptr;
    auto** target = &index;
    const auto member = [&] { return static_cast<std::size_t>(pick(random_, 0, 7)); };
    spoil({[&] { return wrong("columns", columns[member()], outside32(random_, 0, 63)); },
           [&] { return wrong("offsets", offsets[member()], outside32(random_, 0, 63)); },
           [&] { return wrong("q_len", q_len, outside(random_, 0, 64)); },
           [&] { return wrong("kv_len", kv_len, -pick(random_, 1, INT64_MAX)); },
           [&] {
             return spoil_tensor(random_, column_tensor, "columns", {0, 2});
           },
           [&] {
             return spoil_tensor(random_, offset_tensor, "offsets", {0, 1, 2});
           },
           [&] { return wrong("columns", column_pointer, nullptr); },
           [&] { return wrong("offsets", offset_pointer, nullptr); },
           [&] { return wrong("index", target, nullptr); }});
    expect_refused(minference_index_vertical_slash(column_pointer, offset_pointer, q_len, kv_len, 0, target));
    ASSERT_EQ(index, nullptr) << wrong_;
  }

  void index_get() {
    const auto* index = index_;
    std::int64_t head = pick(random_, 0, 3);
    minference_index_head out{};
    out.struct_size = sizeof out;
    auto* target = &out;
    spoil({[&] { return wrong("index", index, nullptr); },
           [&] { return wrong("head", head, outside(random_, 0, 3)); },
           [&] { return wrong("out", target, nullptr); }, [&] { return spoil_size(random_, out, "out"); }});
    expect_refused(minference_index_get(index, head, target));
    ASSERT_EQ(out.tiles, nullptr) << wrong_;
  }

  void attention() {
    minference_attention_args args{.struct_size = sizeof args,
                                   .query = layer_.args.query,
                                   .key = layer_.args.key,
                                   .value = layer_.args.value,
                                   .index = index_};
    auto result = blank_result(layer_, args.out, args.lse);
    const auto* args_pointer = &args;
    auto* context = context_.get();
    spoil({[&] { return spoil_size(random_, args); },
           [&] { return spoil_tensor(random_, args.query, "query", {3}); },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] {
             return spoil_tensor(random_, args.value, "value", {0, 1, 2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.out, "out", {0, 1, 2, 3}, true);
           },
           [&] { return wrong("lse.dtype", args.lse.dtype, outside32(random_, 1, 1)); },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("index", args.index, nullptr); },
           [&] { return wrong("index", args.index, other_index_); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); }});
    expect_refused(minference_attention(context, args_pointer));
    expect_unwritten(result.out);
    expect_unwritten(result.lse);
  }

  void gather() {
    // Four pages of 16 tokens of the layer's keys, whose dims lie side by side; the sequence has 40 tokens.
    std::vector<std::int32_t> token_offsets(16), dim_offsets(64), table = {3, 0, 2};
    for (int t = 0; t < 16; ++t) token_offsets[t] = 64 * t;
    for (int d = 0; d < 64; ++d) dim_offsets[d] = d;
    std::vector<float> pool(4 * 2 * 16 * 64, 1), out(2 * 40 * 64, NAN);
    minference_gather_args args{
        .struct_size = sizeof args,
        .pages = {pool.data(), {4, 2, 1, 1024}, {2048, 1024, 1024, 1}, MINFERENCE_F32, 0},
        .token_offsets = token_offsets.data(),
        .page_size = 16,
        .dim_offsets = dim_offsets.data(),
        .table = table.data(),
        .table_size = 3,
        .out = {out.data(), {1, 2, 40, 64}, {5120, 2560, 64, 1}, MINFERENCE_F32, 0}};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    spoil({[&] { return spoil_size(random_, args); },
           [&] { return spoil_tensor(random_, args.pages, "pages", {2}); },
           [&] { return wrong("pages.shape[3]", args.pages.shape[3], pick(random_, 0, 1023)); },
           [&] {
             return spoil_tensor(random_, args.out, "out", {0, 1}, true);
           },
           [&] { return wrong("token_offsets", args.token_offsets, nullptr); },
           [&] { return wrong("token_offsets[7]", token_offsets[7], outside32(random_, 0, INT32_MAX)); },
           [&] { return wrong("page_size", args.page_size, -pick(random_, 0, INT64_MAX)); },
           [&] { return wrong("dim_offsets", args.dim_offsets, nullptr); },
           [&] { return wrong("dim_offsets[9]", dim_offsets[9], outside32(random_, 0, INT32_MAX)); },
           [&] { return wrong("table", args.table, nullptr); },
           [&] { return wrong("table[1]", table[1], outside32(random_, 0, 3)); },
           [&] { return wrong("table_size", args.table_size, 2 - pick(random_, 0, INT64_MAX)); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); }});
    expect_refused(minference_gather(context, args_pointer));
    expect_unwritten(out);
  }

  void score_patterns() {
    auto candidates = two_candidates();
    minference_score_patterns_args args{.struct_size = sizeof args,
                                        .query = layer_.args.query,
                                        .key = layer_.args.key,
                                        .value = layer_.args.value,
                                        .candidates = candidates.data(),
                                        .num_candidates = 2};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    std::vector<minference_score> scores(8);
    auto* target = scores.data();
    spoil({[&] { return spoil_size(random_, args); },
           [&] {
             return spoil_tensor(random_, args.query, "query", {2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] {
             return spoil_tensor(random_, args.value, "value", {0, 1, 2, 3});
           },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("candidates", args.candidates, nullptr); },
           [&] { return spoil_head(random_, candidates[6], "candidates[1][2]"); },
           [&] { return wrong("num_candidates", args.num_candidates, outside(random_, 1, 1 << 20)); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); },
           [&] { return wrong("scores", target, nullptr); }});
    expect_refused(minference_score_patterns(context, args_pointer, target));
    for (const auto& score : scores) ASSERT_EQ(score.all_pairs, 0) << wrong_;
  }

  void fit_patterns() {
    auto candidates = two_candidates();
    std::vector<std::int32_t> free_size = {0, 1};
    minference_fit_args args{.struct_size = sizeof args,
                             .query = layer_.args.query,
                             .key = layer_.args.key,
                             .candidates = candidates.data(),
                             .free_size = free_size.data(),
                             .num_candidates = 2,
                             .cost = 0.1};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    std::vector<minference_head_pattern> fitted(8, {-7, {0, 0}});
    auto* target = fitted.data();
    spoil({[&] { return spoil_size(random_, args); },
           [&] {
             return spoil_tensor(random_, args.query, "query", {2, 3});
           },
           [&] {
             return spoil_tensor(random_, args.key, "key", {0, 3});
           },
           [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
           [&] { return wrong("candidates", args.candidates, nullptr); },
           [&] { return spoil_head(random_, candidates[6], "candidates[1][2]"); },
           [&] {
             return wrong("candidates[0][3].pattern", candidates[3].pattern, std::int32_t{MINFERENCE_DENSE});
           },
           [&] { return wrong("num_candidates", args.num_candidates, outside(random_, 1, 1 << 20)); },
           [&] { return wrong("free_size", args.free_size, nullptr); },
           [&] { return wrong("free_size[1]", free_size[1], outside32(random_, 0, 1)); },
           [&] { return wrong("cost", args.cost, pick(random_, 0, 1) ? double{not_finite()} : -0.25); },
           [&] { return wrong("context", context, nullptr); },
           [&] { return wrong("args", args_pointer, nullptr); },
           [&] { return wrong("fitted", target, nullptr); }});
    expect_refused(minference_fit_patterns(context, args_pointer, target));
    for (const auto& head : fitted) ASSERT_EQ(head.pattern, -7) << wrong_;
  }

  void make_patterns() {
    std::vector<minference_head_pattern> heads(6, {MINFERENCE_VERTICAL_SLASH, {10, 10}});
    std::int64_t num_layers = 3, num_heads = 2;
    const auto* heads_pointer = heads.data();
    const char *text = "[]", *name = "name", *model = "Qwen/Qwen2-7B-Instruct", *path = "/nowhere";
    minference_patterns* set = nullptr;
    auto** target = &set;
    switch (pick(random_, 0, 3)) {
      case 0:
        spoil({[&] { return wrong("num_layers", num_layers, outside(random_, 1, 1 << 20)); },
               [&] { return wrong("num_query_heads", num_heads, outside(random_, 1, 1 << 20)); },
               [&] { return wrong("heads", heads_pointer, nullptr); },
               [&] { return spoil_head(random_, heads); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_create(num_layers, num_heads, heads_pointer, "test", target));
        break;
      case 1:
        spoil({[&] { return wrong("text", text, nullptr); }, [&] { return wrong("name", name, nullptr); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_parse(text, 2, name, target));
        break;
      case 2:
        spoil({[&] { return wrong("model", model, nullptr); }, [&] { return wrong("model", model, "gpt-0"); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_builtin(model, target));
        break;
      default:
        spoil({[&] { return wrong("path", path, nullptr); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_load(path, target));
    }
    ASSERT_EQ(set, nullptr) << wrong_;
  }

  void use_patterns() {
    const auto* patterns = patterns_;
    std::vector<minference_head_pattern> heads(4, {-7, {0, 0}});
    auto* heads_pointer = heads.data();
    std::int64_t layer = 0, num_layers = 1, num_heads = 4;
    const char *json = nullptr, **text = &json, *path = "/nowhere/patterns.json";
    const Spoil no_patterns = [&] { return wrong("patterns", patterns, nullptr); };
    switch (pick(random_, 0, 3)) {
      case 0:
        spoil({no_patterns, [&] { return wrong("layer", layer, outside(random_, 0, 0)); },
               [&] { return wrong("heads", heads_pointer, nullptr); }});
        expect_refused(minference_patterns_layer(patterns, layer, heads_pointer));
        ASSERT_EQ(heads[0].pattern, -7) << wrong_;
        break;
      case 1:
        spoil({no_patterns, [&] { return wrong("patterns", num_layers, outside(random_, 1, 1)); },
               [&] { return wrong("patterns", num_heads, outside(random_, 4, 4)); }});
        expect_refused(minference_patterns_check(patterns, num_layers, num_heads));
        break;
      case 2:
        spoil({no_patterns, [&] { return wrong("text", text, nullptr); }});
        expect_refused(minference_patterns_json(patterns, text));
        ASSERT_EQ(json, nullptr) << wrong_;
        break;
      default:
        spoil({no_patterns, [&] { return wrong("path", path, nullptr); }});
        expect_refused(minference_patterns_save(patterns, path));
    }
  }

  void context_create() {
    const std::int32_t cpu = -static_cast<std::int32_t>(pick(random_, 1, INT32_MAX));
    minference_context_options options{.struct_size = sizeof options, .num_threads = 1};
    minference_context* context = nullptr;
    auto** target = &context;
    spoil({[&] { return spoil_size(random_, options, "options"); },
           [&] { return wrong("options.num_threads", options.num_threads, outside32(random_, 0, 4096)); },
           [&] { return wrong("options.num_cpus", options.num_cpus, outside32(random_, 0, 4096)); },
           [&] { return wrong("options.cpus", options.num_cpus, 1); },
           [&] { return options.num_cpus = 1, wrong("options.cpus", options.cpus, &cpu); },
           [&] { return wrong("isa", options.isa, "sse9"); },
           [&] { return wrong("context", target, nullptr); }});
    expect_refused(minference_context_create(&options, target));
    ASSERT_EQ(context, nullptr) << wrong_;
  }

  void kernel_name() {
    const char *step = pick(random_, 0, 1) ? "attention" : "estimate", *isa = nullptr;
    std::int32_t dtype = MINFERENCE_BF16;
    std::int64_t head_dim = 64;
    spoil({[&] { return wrong("step", step, nullptr); }, [&] { return wrong("step", step, "cook"); },
           [&] { return wrong("isa", isa, "sse9"); },
           [&] { return wrong("dtype", dtype, outside32(random_, 1, 3)); },
           [&] { return wrong("head_dim", head_dim, outside(random_, 8, 256)); }});
    ASSERT_EQ(minference_kernel_name(step, isa, dtype, head_dim), nullptr) << wrong_;
    expect_refused(minference_last_status());
  }

  template <class Handle, class Create, class... Arguments>
  static Handle* made(Create create, Arguments... arguments) {
    Handle* handle = nullptr;
    EXPECT_EQ(create(arguments..., &handle), MINFERENCE_OK) << minference_last_error();
    return handle;
  }

  static minference_tensor sums(std::vector<float>& data) {
    return {data.data(), {1, 4, 1, 64}, {256, 64, 64, 1}, MINFERENCE_F32, 0};
  }

  static std::vector<minference_head_pattern> two_candidates() {
    std::vector<minference_head_pattern> candidates(4, {MINFERENCE_VERTICAL_SLASH, {10, 10}});
    candidates.resize(8, {MINFERENCE_A_SHAPE, {4, 16}});
    return candidates;
  }

  float not_finite() { return pick(random_, std::vector<float>{NAN, INFINITY, -INFINITY}); }

  // Does one of them.
  void spoil(const std::vector<Spoil>& ways) { wrong_ = pick(random_, ways)(); }

  template <class T>
  static std::string wrong(const char* name, T& argument, std::type_identity_t<T> value) {
    argument = value;
    return name;
  }

  static void expect_unwritten(const std::vector<float>& values) {
    for (const float x : values) ASSERT_TRUE(std::isnan(x));
  }

  void expect_refused(minference_status status) {
    const std::string message = minference_last_error();
    ASSERT_TRUE(status == MINFERENCE_INVALID_ARGUMENT || status == MINFERENCE_UNSUPPORTED)
        << "status " << status << " although " << wrong_ << " is wrong; last message: " << message;
    const bool named = message.starts_with(wrong_ + " ") || message.starts_with(wrong_ + "[");
    ASSERT_TRUE(named) << wrong_ << " is wrong, but: " << message;
    ++refused_;
  }

  Random random_;
  std::unique_ptr<minference_context, DestroyContext> context_;
  Layer layer_{{.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 64, .kv_len = 64, .head_dim = 64}};
  std::vector<std::int32_t> members_ = std::vector<std::int32_t>(16);
  minference_index *index_ = nullptr, *other_index_ = nullptr;
  minference_patterns* patterns_ = nullptr;
  std::string wrong_;  // the argument that this call's message must name
  int refused_ = 0;
};

TEST(RandomCalls, OneWrongArgumentIsNamed) {
  constexpr int kCalls = 100000;
  RandomCalls random_calls(20261124);
  for (int i = 0; i < kCalls && !HasFatalFailure(); ++i) {
    SCOPED_TRACE("call " + std::to_string(i));
    random_calls.call(i);
  }
  EXPECT_EQ(random_calls.refused(), kCalls);
  std::printf("checked: %d calls, each refused by the name of its wrong argument\n", random_calls.refused());
}

}  // namespace
}  // namespace minference::capi
