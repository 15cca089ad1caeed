#include "kernels/select/threshold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace minference::kernels {
namespace {

TEST(Threshold, IsReachedByTheWorthsOfItsCodeAndAbove) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::mt19937 random(3);
  for (int i = 0; i < 100000; ++i) {
    const float worth =
        std::ldexp(std::uniform_real_distribution<float>(1, 2)(random), static_cast<int>(random() % 80) - 50);
    const std::int32_t code = code_of(worth), other = static_cast<std::int32_t>(random() % kCodes);
    EXPECT_GE(worth, threshold_of(code));
    EXPECT_EQ(worth >= threshold_of(other), code >= other) << worth << ' ' << other;
  }
  EXPECT_EQ(threshold_of(0), 0.0f);
  EXPECT_EQ(code_of(0.0f), 0);
  EXPECT_EQ(code_of(kLargest), kCodes - 1);
  EXPECT_EQ(code_of(std::numeric_limits<float>::infinity()), kCodes - 1);
  EXPECT_GT(threshold_of(kCodes - 1), 128 * 64 * 64.0f);
}

TEST(Threshold, IsSettledToOnePercent) {
  EXPECT_LT(threshold_of(1), 1e-13f);
  for (std::int32_t code = 1; code + 1 < kCodes; ++code)
    EXPECT_LE(threshold_of(code + 1) / threshold_of(code), 1.01f);
}

// What is left of a kept column is that of its definition, at every threshold.
TEST(Threshold, StepsOfAColumnAddUpToWhatIsLeftOfIt) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> uniform;
  int checked = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    constexpr std::int32_t kFew = 6;
    const auto some_code = [&] { return static_cast<std::int32_t>(random() % kFew); };
    const double sum = uniform(random);
    const std::int32_t code = some_code();
    const Crossing first{some_code(), uniform(random)}, second{some_code(), uniform(random) * (trial % 2)};
    const ColumnSteps steps = steps_of_column(sum, code, first, second);
    for (std::int32_t threshold = 0; threshold <= kFew; ++threshold) {
      double left = sum;
      if (first.code >= threshold) left -= first.mass;
      if (second.code >= threshold) left -= second.mass;
      const double wanted = code >= threshold ? std::max(0.0, left) : 0;
      double added = 0;
      if (code >= threshold) added += steps.own;
      if (first.code >= threshold) added += steps.first;
      if (second.code >= threshold) added += steps.second;
      EXPECT_NEAR(added, wanted, 1e-14);
      ++checked;
    }
  }
  std::printf("checked: %d steps of columns\n", checked);
}

TEST(Threshold, TheDescentFindsTheLargestCodeThatPasses) {
  for (std::int32_t cut = 0; cut < kCodes; ++cut)
    EXPECT_EQ(largest_code([&](std::int32_t code) { return code <= cut; }), cut);
}

}  // namespace
}  // namespace minference::kernels
