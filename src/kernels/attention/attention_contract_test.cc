// What holds whatever the numbers: rows without keys, keys outside the index, the optional LSE, the same bits for any number
// of workers; and which kernel the table picks.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/attention/testing.h"

namespace minference::kernels::testing {
namespace {

TEST(Attention, RowsWithoutKeysGiveZeroAndMinusInfinity) {
  Problem p({.form = IndexForm::relative, .q_len = 70, .kv_len = 70});
  for (sparse::HeadIndex& head : p.index.heads) {
    head.tiles.clear();
    head.columns = {5, 66};
  }
  const auto executor = base::make_thread_pool(1);
  for (const AttentionKernel* kernel : kernels_for(DType::f32, 64)) {
    SCOPED_TRACE(kernel->name);
    p.reset_outputs();
    kernel->run(p.call, *executor);
    for (std::int64_t row = 0; row < 5; ++row) {
      EXPECT_EQ(p.call.lse.at(0, row), -std::numeric_limits<float>::infinity());
      for (std::int64_t d = 0; d < 64; ++d) ASSERT_EQ(p.output(0, row, d), 0.0);
    }
    EXPECT_TRUE(std::isfinite(p.call.lse.at(0, 5)));
  }
}

// A value that is not finite reaches the rows that attend to its key, and none before the row slice of the first.
TEST(Attention, ValuesOfUnlistedKeysTouchNothing) {
  constexpr std::int64_t kInfiniteKey = 200;
  for (const DType dtype : kDTypes) {
    Problem p({.dtype = dtype, .form = IndexForm::relative, .q_len = 256, .kv_len = 256, .in_place = true});
    for (sparse::HeadIndex& head : p.index.heads) {
      head.tiles = {0};
      head.columns.resize(64);
      std::iota(head.columns.begin(), head.columns.begin() + 60, 0);
      std::iota(head.columns.begin() + 60, head.columns.end(), kInfiniteKey);
    }
    base::store_float(p.value.bytes.data(), dtype, kInfiniteKey * p.value.row_stride,
                      std::numeric_limits<float>::infinity());
    const auto executor = base::make_thread_pool(1);
    for (const AttentionKernel* kernel : kernels_for(dtype, 64)) {
      SCOPED_TRACE(kernel->name);
      p.reset_outputs();
      kernel->run(p.call, *executor);
      for (std::int64_t row = 0; row < kInfiniteKey / 64 * 64; ++row)
        for (std::int64_t d = 0; d < 64; ++d)
          ASSERT_TRUE(std::isfinite(p.output(0, row, d))) << base::name_of(dtype) << " row " << row;
      EXPECT_FALSE(std::isfinite(p.output(0, kInfiniteKey, 0)));
    }
  }
}

TEST(Attention, LseIsOptional) {
  Problem p({.dtype = DType::bf16});
  const auto executor = base::make_thread_pool(1);
  for (const AttentionKernel* kernel : kernels_for(DType::bf16, 64)) {
    kernel->run(p.call, *executor);
    const std::vector<char> with_lse = p.out.bytes;
    p.reset_outputs();
    AttentionCall call = p.call;
    call.lse = {};
    kernel->run(call, *executor);
    EXPECT_EQ(p.out.bytes, with_lse) << kernel->name;
  }
}

// Large enough for every kernel to use its workers.
TEST(Attention, SameBitsForAnyNumberOfWorkers) {
  for (const DType dtype : kDTypes) {
    for (const IndexForm form : kForms) {
      Problem p({.dtype = dtype,
                 .head_dim = 128,
                 .group = 4,
                 .form = form,
                 .q_len = 300,
                 .kv_len = 401,
                 .last_dense_rows = 30,
                 .key_scale = 10});
      for (const AttentionKernel* kernel : kernels_for(dtype, 128)) {
        std::vector<char> out;
        std::vector<float> lse;
        for (const int num_workers : {1, 2, 3}) {
          p.reset_outputs();
          kernel->run(p.call, *base::make_thread_pool(num_workers));
          if (num_workers > 1) {
            EXPECT_EQ(p.out.bytes, out) << kernel->name << ", " << num_workers << " workers";
            EXPECT_EQ(std::memcmp(p.lse.data(), lse.data(), lse.size() * sizeof(float)), 0) << kernel->name;
          }
          out = p.out.bytes;
          lse = p.lse;
        }
      }
    }
  }
}

TEST(Attention, TheTableIsBestFirstAndEndsWithTheOneThatAlwaysRuns) {
  const auto kernels = attention_kernels();
  EXPECT_STREQ(kernels.back().name, "portable");
  for (const AttentionKernel& kernel : kernels) {
    EXPECT_LE(kernel.required, kernels.front().required);
    EXPECT_GT(kernel.cost_of_column, 0);
    EXPECT_GE(kernel.cost_of_run, 0);
    EXPECT_GE(kernel.cost_of_slice, 0);
  }
}

TEST(Attention, SelectionByName) {
  using base::Isa;
  for (const std::int64_t head_dim : {8, 64, 96, 256}) {
    for (const DType dtype : kDTypes) {
      EXPECT_STREQ(select_attention(Isa::portable, dtype, head_dim).name, "portable");
      EXPECT_STREQ(select_attention(Isa::avx2, dtype, head_dim).name, "avx2");
      EXPECT_STREQ(select_attention(Isa::avx512, dtype, head_dim).name, "avx512");
      const char* with_bf16 = dtype == DType::bf16 ? "avx512bf16" : "avx512";
      EXPECT_STREQ(select_attention(Isa::avx512bf16, dtype, head_dim).name, with_bf16);
    }
  }
}

}  // namespace
}  // namespace minference::kernels::testing
