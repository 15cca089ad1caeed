// A whole layer through the C ABI: what the pipeline promises about batches, budgets, fallback and
// statistics.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "capi/testing.h"

namespace minference::capi {
namespace {

using testing::Layer;
using testing::run;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

minference_head_pattern vertical_slash(int vertical, int slash) {
  return {MINFERENCE_VERTICAL_SLASH, {vertical, slash}, 0, 950000};
}

TEST(Prefill, FullBudgetEqualsDense) {
  Layer layer({.batch = 2, .query_heads = 4, .kv_heads = 2, .q_len = 301, .kv_len = 333, .head_dim = 64});
  layer.set_heads(minference_head_pattern{MINFERENCE_DENSE});
  const auto dense = run(layer);
  for (const auto& head : {vertical_slash(333, 333), minference_head_pattern{MINFERENCE_A_SHAPE, {0, 333}},
                           minference_head_pattern{MINFERENCE_A_SHAPE, {333, 1}},
                           minference_head_pattern{MINFERENCE_BLOCK_SPARSE, {1000, 0}},
                           minference_head_pattern{MINFERENCE_ADAPTIVE, {0, 0}, 0, 1000000}}) {
    layer.set_heads(head);
    layer.args.fallback = MINFERENCE_FALLBACK_OFF;
    const auto sparse = run(layer);
    ASSERT_EQ(sparse.status, MINFERENCE_OK) << minference_last_error();
    EXPECT_EQ(sparse.statistics.pairs, sparse.statistics.all_pairs) << "pattern " << head.pattern;
    for (std::size_t i = 0; i < dense.out.size(); ++i)
      ASSERT_NEAR(sparse.out[i], dense.out[i], 2e-5) << "at " << i;
    for (std::size_t i = 0; i < dense.lse.size(); ++i)
      ASSERT_NEAR(sparse.lse[i], dense.lse[i], 1e-5) << "at " << i;
  }
}

TEST(Prefill, PaddedSequencesAreBitEqualToThemselvesAlone) {
  const std::vector<minference_sequence> padded = {
      {0, 37, 293, 37, 293}, {1, 0, 201, 0, 288}, {2, 330, 0, 330, 0}};
  Layer layer({.batch = 3, .query_heads = 4, .kv_heads = 2, .q_len = 330, .kv_len = 330, .head_dim = 64});
  layer.set_heads(vertical_slash(40, 120));
  layer.args.fallback = MINFERENCE_FALLBACK_OFF;
  layer.set_sequences(padded);
  const auto together = run(layer);
  ASSERT_EQ(together.status, MINFERENCE_OK) << minference_last_error();
  for (const auto& s : padded) {
    layer.set_sequences({s});
    const auto alone = run(layer);
    for (std::int64_t h = 0; h < 4; ++h)
      for (std::int64_t r = 0; r < 330; ++r) {
        const auto row = layer.out_row(s.batch, h, r);
        const auto lse = layer.lse_at(s.batch, h, r);
        ASSERT_EQ(std::memcmp(&together.out[row], &alone.out[row], 64 * sizeof(float)), 0) << h << ' ' << r;
        ASSERT_EQ(together.lse[lse], alone.lse[lse]);
        if (r < s.q_begin || r >= s.q_begin + s.q_len) {
          ASSERT_EQ(together.lse[lse], -kInfinity);
          for (int d = 0; d < 64; ++d) ASSERT_EQ(together.out[row + d], 0.0f);
        } else {
          ASSERT_TRUE(std::isfinite(together.lse[lse]));
        }
      }
  }
}

TEST(Prefill, PackedSequencesDoNotSeeEachOther) {
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 500, .kv_len = 500, .head_dim = 64});
  layer.set_heads(vertical_slash(30, 60));
  layer.args.fallback = MINFERENCE_FALLBACK_OFF;
  const minference_sequence first{0, 0, 190, 0, 190}, second{0, 190, 310, 190, 310};
  layer.set_sequences({second, first});
  const auto both = run(layer);
  ASSERT_EQ(both.status, MINFERENCE_OK) << minference_last_error();
  layer.set_sequences({second});
  const auto alone = run(layer);
  for (std::int64_t r = 190; r < 500; ++r)
    ASSERT_EQ(std::memcmp(&both.out[layer.out_row(0, 1, r)], &alone.out[layer.out_row(0, 1, r)], 64 * 4), 0)
        << r;
}

TEST(Prefill, EmptySequencesLieAnywhere) {
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 90, .kv_len = 90, .head_dim = 64});
  std::vector<minference_sequence> packed, without_empty;
  for (std::int64_t i = 0; i < 17; ++i) {
    // The empty ones begin where their neighbours do, or inside their rows.
    if (i % 2 == 0)
      packed.push_back({0, 10 * (i / 2), 10, 10 * (i / 2), 10});
    else
      packed.push_back({0, 10 * (i / 2) + (i % 3) * 4, 0, 0, i % 5});
    if (i % 2 == 0) without_empty.push_back(packed.back());
  }
  layer.set_sequences(packed);
  const auto result = run(layer);
  ASSERT_EQ(result.status, MINFERENCE_OK) << minference_last_error();
  layer.set_sequences(without_empty);
  const auto expected = run(layer);
  EXPECT_EQ(result.out, expected.out);
  EXPECT_EQ(result.lse, expected.lse);
}

TEST(Prefill, MoreBudgetNeverLosesMass) {
  Layer layer({.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 600, .kv_len = 700, .head_dim = 64});
  layer.args.fallback = MINFERENCE_FALLBACK_OFF;
  std::vector<float> before;
  std::int64_t pairs = 0;
  for (int budget : {50, 104, 120, 260, 700}) {
    layer.set_heads(vertical_slash(budget, budget));
    const auto result = run(layer);
    ASSERT_EQ(result.status, MINFERENCE_OK) << minference_last_error();
    EXPECT_GE(result.statistics.pairs, pairs);
    if (before.empty()) EXPECT_LT(result.statistics.pairs, result.statistics.all_pairs / 2);
    pairs = result.statistics.pairs;
    for (std::size_t i = 0; i < before.size(); ++i) ASSERT_GE(result.lse[i], before[i] - 1e-5f);
    before = result.lse;
  }
}

TEST(Prefill, SplitKeysMergedByLseEqualWhole) {
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 130, .kv_len = 400, .head_dim = 64});
  layer.set_heads(minference_head_pattern{MINFERENCE_DENSE});
  layer.args.non_causal = 1;
  const auto whole = run(layer);
  layer.set_sequences({{0, 0, 130, 0, 150}});
  const auto left = run(layer);
  layer.set_sequences({{0, 0, 130, 150, 250}});
  const auto right = run(layer);
  for (std::int64_t h = 0; h < 2; ++h)
    for (std::int64_t r = 0; r < 130; ++r) {
      const auto at = layer.lse_at(0, h, r), row = layer.out_row(0, h, r);
      const float lse = std::log(std::exp(left.lse[at]) + std::exp(right.lse[at]));
      ASSERT_NEAR(lse, whole.lse[at], 1e-5);
      for (int d = 0; d < 64; ++d)
        ASSERT_NEAR(left.out[row + d] * std::exp(left.lse[at] - lse) +
                        right.out[row + d] * std::exp(right.lse[at] - lse),
                    whole.out[row + d], 2e-5);
    }
}

TEST(Prefill, ShortCallsAndExpensiveHeadsFallBack) {
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 120, .kv_len = 2000, .head_dim = 64});
  layer.set_heads(vertical_slash(30, 50));
  auto result = run(layer);
  EXPECT_EQ(result.fallback, (std::vector<std::int32_t>{1, 1})) << "below 128 rows";
  EXPECT_EQ(result.density, (std::vector<double>{1.0, 1.0}));

  layer = Layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 2048, .kv_len = 2048, .head_dim = 64});
  layer.set_heads(vertical_slash(30, 100));
  layer.heads[1] = vertical_slash(2048, 2048);
  result = run(layer);
  EXPECT_EQ(result.fallback, (std::vector<std::int32_t>{0, 1})) << "a full budget costs more than dense";
  EXPECT_LT(result.density[0], 0.6);
  EXPECT_EQ(result.density[1], 1.0);

  layer.args.share_index = 1;
  result = run(layer);
  EXPECT_EQ(result.fallback, (std::vector<std::int32_t>{1, 1})) << "one index, of the larger budget";
  EXPECT_EQ(result.density, (std::vector<double>{1.0, 1.0}));
  layer.heads[1] = {MINFERENCE_DENSE};
  result = run(layer);
  EXPECT_EQ(result.fallback, (std::vector<std::int32_t>{0, 0})) << "nothing is shared with a dense head";
  EXPECT_LT(result.density[0], 0.6);
}

TEST(Prefill, LastDenseRowsSeeEveryKey) {
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 500, .kv_len = 500, .head_dim = 64});
  layer.set_heads(minference_head_pattern{MINFERENCE_DENSE});
  const auto dense = run(layer);
  layer.args.fallback = MINFERENCE_FALLBACK_OFF;
  layer.set_heads({MINFERENCE_A_SHAPE, {4, 40}, 100, 0});
  const auto result = run(layer);
  for (std::int64_t r = 0; r < 500; ++r) {
    const auto at = layer.lse_at(0, 1, r);
    if (r >= 400 || r < 44)
      ASSERT_NEAR(result.lse[at], dense.lse[at], 1e-5) << r;
    else
      ASSERT_LT(result.lse[at], dense.lse[at] - 1e-3) << r;
  }
}

TEST(Prefill, StepsComposeToTheWhole) {
  Layer layer({.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 450, .kv_len = 777, .head_dim = 128});
  layer.set_heads(vertical_slash(50, 150));
  layer.args.fallback = MINFERENCE_FALLBACK_OFF;
  const auto whole = run(layer);

  const auto context = testing::context();
  std::vector<float> columns(4 * 777), diagonals(4 * 777);
  const auto sums = [](std::vector<float>& data) {
    return minference_tensor{data.data(), {1, 4, 1, 777}, {0, 777, 777, 1}, MINFERENCE_F32, 0};
  };
  minference_estimate_args estimate{.struct_size = sizeof estimate,
                                    .query = layer.args.query,
                                    .key = layer.args.key,
                                    .column_sums = sums(columns),
                                    .diagonal_sums = sums(diagonals)};
  ASSERT_EQ(minference_estimate(context.get(), &estimate), MINFERENCE_OK) << minference_last_error();
  std::vector<std::int32_t> column_list(4 * 50), offset_list(4 * 150);
  std::vector<std::int64_t> column_counts(4), offset_counts(4);
  minference_select_args counts_only{.struct_size = sizeof counts_only,
                                     .column_sums = sums(columns),
                                     .diagonal_sums = sums(diagonals),
                                     .heads = layer.heads.data(),
                                     .num_heads = 4,
                                     .column_counts = column_counts.data(),
                                     .offset_counts = offset_counts.data()};
  EXPECT_EQ(minference_select(context.get(), &counts_only), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(), "column_capacity must be >= 50, got 0");
  EXPECT_EQ(offset_counts, (std::vector<std::int64_t>(4, 150)));
  column_counts.assign(4, 0), offset_counts.assign(4, 0);
  minference_select_args select{.struct_size = sizeof select,
                                .column_sums = sums(columns),
                                .diagonal_sums = sums(diagonals),
                                .heads = layer.heads.data(),
                                .num_heads = 4,
                                .columns = column_list.data(),
                                .column_capacity = 50,
                                .column_counts = column_counts.data(),
                                .offsets = offset_list.data(),
                                .offset_capacity = 150,
                                .offset_counts = offset_counts.data()};
  ASSERT_EQ(minference_select(context.get(), &select), MINFERENCE_OK) << minference_last_error();
  EXPECT_EQ(column_counts, (std::vector<std::int64_t>(4, 50)));
  EXPECT_EQ(offset_counts, (std::vector<std::int64_t>(4, 150)));
  const minference_tensor column_tensor{column_list.data(), {1, 4, 1, 50}, {0, 50, 50, 1}, MINFERENCE_I32, 0};
  const minference_tensor offset_tensor{
      offset_list.data(), {1, 4, 1, 150}, {0, 150, 150, 1}, MINFERENCE_I32, 0};
  minference_index* index = nullptr;
  ASSERT_EQ(minference_index_vertical_slash(&column_tensor, &offset_tensor, 450, 777, 0, &index),
            MINFERENCE_OK)
      << minference_last_error();

  minference_index_head head{.struct_size = sizeof head};
  ASSERT_EQ(minference_index_get(index, 2, &head), MINFERENCE_OK);
  EXPECT_EQ(head.form, MINFERENCE_INDEX_RELATIVE);
  EXPECT_DOUBLE_EQ(static_cast<double>(head.pairs) / static_cast<double>(head.all_pairs), whole.density[2]);

  const auto stepwise = testing::run_attention(layer, index);
  minference_index_destroy(index);
  EXPECT_EQ(stepwise.status, MINFERENCE_OK) << minference_last_error();
  EXPECT_EQ(std::memcmp(stepwise.out.data(), whole.out.data(), whole.out.size() * sizeof(float)), 0);
  EXPECT_EQ(stepwise.lse, whole.lse);
}

}  // namespace
}  // namespace minference::capi
