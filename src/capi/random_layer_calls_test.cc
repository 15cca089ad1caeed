// Calls that take all they need in their arguments, one of them wrong.
#include "capi/random_calls.h"

namespace minference::capi {
namespace {

using namespace testing;

class RandomLayerCalls : public RandomCalls {
 protected:
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
    spoil(wrong_layer(args, args_pointer, context),
          {[&] { return wrong("num_heads", args.num_heads, outside(random_, 4, 4)); },
           [&] { return wrong("heads", args.heads, nullptr); }, [&] { return spoil_head(random_, heads); },
           [&] { return wrong("num_sequences", args.num_sequences, -pick(random_, 1, INT64_MAX)); },
           [&] { return spoil_sequence(random_, sequences); },
           [&] { return wrong("fallback", args.fallback, outside32(random_, 0, 1)); },
           [&] { return wrong("share_index", args.share_index, outside32(random_, 0, 1)); }});
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
    spoil(wrong_query_and_key(args, args_pointer, context),
          {[&] {
             return spoil_tensor(random_, args.column_sums, "column_sums", {0, 1, 2, 3}, true);
           },
           [&] {
             return spoil_tensor(random_, args.diagonal_sums, "diagonal_sums", {0, 1, 2, 3}, true);
           },
           [&] { return wrong("diagonal_sums.stride[1]", args.diagonal_sums.stride[1], 65); }});
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
    spoil(wrong_query_and_key(args, args_pointer, context),
          {[&] {
             return spoil_tensor(random_, args.value, "value", {0, 1, 2, 3});
           },
           [&] { return wrong("candidates", args.candidates, nullptr); },
           [&] { return spoil_head(random_, candidates[6], "candidates[1][2]"); },
           [&] { return wrong("num_candidates", args.num_candidates, outside(random_, 1, 1 << 20)); },
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
    spoil(wrong_query_and_key(args, args_pointer, context),
          {[&] { return wrong("candidates", args.candidates, nullptr); },
           [&] { return spoil_head(random_, candidates[6], "candidates[1][2]"); },
           [&] {
             return wrong("candidates[0][3].pattern", candidates[3].pattern, std::int32_t{MINFERENCE_DENSE});
           },
           [&] { return wrong("num_candidates", args.num_candidates, outside(random_, 1, 1 << 20)); },
           [&] { return wrong("free_size", args.free_size, nullptr); },
           [&] { return wrong("free_size[1]", free_size[1], outside32(random_, 0, 1)); },
           [&] { return wrong("cost", args.cost, pick(random_, 0, 1) ? double{not_finite()} : -0.25); },
           [&] { return wrong("fitted", target, nullptr); }});
    expect_refused(minference_fit_patterns(context, args_pointer, target));
    for (const auto& head : fitted) ASSERT_EQ(head.pattern, -7) << wrong_;
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

 private:
  static minference_tensor sums(std::vector<float>& data) {
    return {data.data(), {1, 4, 1, 64}, {256, 64, 64, 1}, MINFERENCE_F32, 0};
  }

  static std::vector<minference_head_pattern> two_candidates() {
    std::vector<minference_head_pattern> candidates(4, {MINFERENCE_VERTICAL_SLASH, {10, 10}});
    candidates.resize(8, {MINFERENCE_A_SHAPE, {4, 16}});
    return candidates;
  }
};

TEST_F(RandomLayerCalls, OneWrongArgumentIsNamed) {
  make({[this] { prefill(); }, [this] { estimate(); }, [this] { select(); }, [this] { gather(); },
        [this] { score_patterns(); }, [this] { fit_patterns(); }, [this] { kernel_name(); }});
}

}  // namespace
}  // namespace minference::capi
