#include "kernels/select/bisection.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <vector>

namespace minference::kernels {
namespace {

constexpr int kSteps = 4;
using Four = Probes<kSteps>;

CodeRange by_steps(CodeRange range, const std::vector<bool>& passes, int steps) {
  for (int i = 0; i < steps && !range.found(); ++i) range = range.half(passes[range.middle()]);
  return range;
}

// Also where passing is not monotone, the probes take the way that single steps take.
TEST(Bisection, SeveralStepsAtOnceGoWhereSingleOnesGo) {
  std::mt19937 random(1);
  int checked = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<bool> passes(kLargestCode + 1);
    const auto cut = random() % (kLargestCode + 1);
    const auto flips = trial % 2 == 0 ? 0u : 3000u;
    for (std::uint32_t code = 0; code <= kLargestCode; ++code) passes[code] = code <= cut;
    for (std::uint32_t i = 0; i < flips; ++i) passes[random() % passes.size()].flip();

    CodeRange range;
    for (int round = 0; round < 4; ++round) {
      bool probed[Four::kCount];
      std::uint32_t before = 0;
      for (int probe = 1; probe <= Four::kCount; ++probe) {
        const std::uint32_t code = Four::code(range, probe);
        EXPECT_LE(before, code);
        before = code;
        probed[probe - 1] = passes[code];
      }
      const CodeRange wanted = by_steps(range, passes, kSteps);
      range = Four::search(range, probed);
      EXPECT_EQ(range.low, wanted.low);
      EXPECT_EQ(range.high, wanted.high);
      ++checked;
    }
    EXPECT_TRUE(range.found());
    if (flips == 0) {
      EXPECT_EQ(range.low, cut);
    }
  }
  std::printf("checked: %d rounds of bisection\n", checked);
}

TEST(Bisection, AThresholdIsSettledToOnePercent) {
  EXPECT_EQ(threshold_of(0), 0.0f);
  for (std::uint32_t code = 0x100; code < kLargestCode; ++code)
    EXPECT_LE(threshold_of(code + 1) / threshold_of(code), 1.01f);
}

}  // namespace
}  // namespace minference::kernels
