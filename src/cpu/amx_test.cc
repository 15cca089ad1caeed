#include "cpu/amx.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/isa.h"
#include "cpu/amx_emulation.h"

namespace minference::cpu {
namespace {

constexpr std::int64_t kStride = 192;  // of rows in memory: wider than a tile's row

std::vector<base::bfloat16> random_rows(std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<base::bfloat16> values(16 * kStride / 2);
  for (base::bfloat16& x : values) x = base::from_float<base::bfloat16>(normal(random));
  return values;
}

// Two products on top of each other, and a tile that was zeroed.
template <class Tiles>
std::vector<float> run(const std::vector<base::bfloat16>& a, const std::vector<base::bfloat16>& b) {
  std::vector<float> sums(2 * 16 * kStride / 4, -1.0f);
  Tiles::configure();
  Tiles::template zero<0>();
  Tiles::template load<4>(a.data(), kStride);
  Tiles::template load_streamed<6>(b.data(), kStride);
  Tiles::template multiply_add<0, 4, 6>();
  Tiles::template store<0>(sums.data(), kStride);
  Tiles::template load<3>(sums.data(), kStride);
  Tiles::template multiply_add<3, 6, 4>();
  Tiles::template store<3>(sums.data() + 16 * kStride / 4, kStride);
  Tiles::release();
  return sums;
}

TEST(EmulatedTiles, MultiplyPairsOfRows) {
  const auto a = random_rows(1), b = random_rows(2);
  const std::vector<float> sums = run<EmulatedTiles>(a, b);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      double expected = 0;
      for (int r = 0; r < 16; ++r) {
        for (int half = 0; half < 2; ++half) {
          expected += double{base::to_float(a[i * kStride / 2 + 2 * r + half])} *
                      double{base::to_float(b[r * kStride / 2 + 2 * j + half])};
        }
      }
      EXPECT_NEAR(sums[static_cast<std::size_t>(i * kStride / 4 + j)], expected, 1e-4);
    }
    for (int j = 16; j < kStride / 4; ++j)
      EXPECT_EQ(sums[static_cast<std::size_t>(i * kStride / 4 + j)], -1.0f);
  }
}

TEST(AmxTiles, EqualTheirEmulation) {
  if (base::available_isa() < base::Isa::amx) GTEST_SKIP() << "this machine has no AMX";
  for (std::uint32_t seed = 0; seed < 8; ++seed) {
    auto a = random_rows(seed);
    const auto b = random_rows(100 + seed);
    a[seed] = {0x0001};  // denormal
    a[seed + 40] = {0x8070};
    EXPECT_EQ(run<AmxTiles>(a, b), run<EmulatedTiles>(a, b));
  }
}

}  // namespace
}  // namespace minference::cpu
