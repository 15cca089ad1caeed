#include "prefill/gate.h"

#include <gtest/gtest.h>

#include "kernels/attention/attention.h"

namespace minference::prefill {
namespace {

TEST(Gate, ShortCallsRunDensely) {
  for (const std::int64_t estimate_rows : {96, 128}) {
    EXPECT_TRUE(runs_densely(127, 1 << 20, estimate_rows));
    EXPECT_TRUE(runs_densely(128, 128, estimate_rows));
    EXPECT_FALSE(runs_densely(8192, 8192, estimate_rows));
  }
}

// Chunks of 512 rows, llama.cpp's default.
TEST(Gate, ChunksPayEarlierWhereAttentionIsSlower) {
  const auto rows = [](base::Isa isa, base::DType dtype) {
    return kernels::select_attention(isa, dtype, 64).estimate_rows;
  };
  EXPECT_FALSE(runs_densely(512, 8192, rows(base::Isa::avx512, base::DType::f16)));
  EXPECT_FALSE(runs_densely(512, 8192, rows(base::Isa::amx, base::DType::f16)));
  EXPECT_TRUE(runs_densely(512, 8192, rows(base::Isa::amx, base::DType::bf16)));
  EXPECT_FALSE(runs_densely(512, 8192, rows(base::Isa::avx512bf16, base::DType::bf16)));
  EXPECT_TRUE(runs_densely(256, 8192, rows(base::Isa::avx512bf16, base::DType::bf16)));
}

}  // namespace
}  // namespace minference::prefill
