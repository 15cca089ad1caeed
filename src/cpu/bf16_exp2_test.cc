#include "cpu/bf16_exp2.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/dtype.h"
#include "base/isa.h"

// Compiled for avx512bf16.
namespace minference::cpu {
namespace {

struct Pair {
  float even, odd, sum;
};

// 2^(scale * score - reference), the odd element's where `odd_mask` has bits.
Pair exp2_of(float score, float scale, float reference, __mmask16 odd_mask = 0xffff) {
  const Bf16Exp2<false> exp2(scale);
  const __m512 offset = exp2.offset_of(_mm512_set1_ps(reference)), scores = _mm512_set1_ps(score);
  const __m512i pairs = exp2.pairs(exp2.integer(scores, offset), exp2.integer(scores, offset, odd_mask));
  alignas(64) std::uint16_t words[32];
  alignas(64) float sums[16];
  _mm512_store_si512(words, pairs);
  _mm512_store_ps(sums, exp2.add_pairs(_mm512_setzero_ps(), pairs));
  for (int i = 2; i < 32; ++i) EXPECT_EQ(words[i], words[i % 2]);
  return {base::to_float(base::bfloat16{words[0]}), base::to_float(base::bfloat16{words[1]}), sums[0]};
}

class Bf16Exp2Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (base::available_isa() < base::Isa::avx512bf16) GTEST_SKIP() << "this machine has no AVX512_BF16";
  }
};

TEST_F(Bf16Exp2Test, IsWithinTwoRoundings) {
  double worst = 0;
  for (int i = -126 * 1000; i < 127 * 1000; ++i) {
    const double x = i / 1000.0;
    const Pair pair = exp2_of(static_cast<float>(x + 3) * 2, 0.5f, 3);
    ASSERT_EQ(pair.even, pair.odd);
    ASSERT_EQ(pair.sum, 2 * pair.even);
    worst = std::max(worst, std::fabs(pair.even / std::exp2(x) - 1));
  }
  EXPECT_LT(worst, 0.0067);
  EXPECT_GT(worst, 0.005);
}

TEST_F(Bf16Exp2Test, PowersOfTwoAreExact) {
  for (int x = -126; x < 128; ++x) EXPECT_EQ(exp2_of(static_cast<float>(x), 1, 0).even, std::ldexp(1.0f, x));
}

TEST_F(Bf16Exp2Test, OutOfRange) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float x : {128.0f, 400.0f, 1e30f, kInfinity, std::numeric_limits<float>::quiet_NaN()})
    EXPECT_EQ(exp2_of(x, 1, 0).even, kInfinity) << x;
  for (const float x : {-126.1f, -127.0f, -400.0f, -1e30f, -kInfinity}) {
    EXPECT_LT(exp2_of(x, 1, 0).even, 0x1p-126f) << x;
    EXPECT_GE(exp2_of(x, 1, 0).even, 0) << x;
    EXPECT_EQ(exp2_of(x, 1, 0).sum, 0) << x;
  }
}

TEST_F(Bf16Exp2Test, MaskedLanesAreZero) {
  const Pair pair = exp2_of(3, 1, 1, 0);
  EXPECT_EQ(pair.even, 4);
  EXPECT_EQ(pair.odd, 0);
  EXPECT_EQ(pair.sum, 4);
}

}  // namespace
}  // namespace minference::cpu
