#include "cpu/denormals.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/dtype.h"

namespace minference::cpu {
namespace {

constexpr float kSmallestNormal = std::numeric_limits<float>::min();

// What the compiler must not compute.
float half(float x) {
  volatile float unknown = x;
  return unknown * 0.5f;
}

TEST(DenormalsAreZero, EndsWithItsScope) {
  EXPECT_GT(half(kSmallestNormal), 0.0f);
  {
    const DenormalsAreZero scope;
    EXPECT_EQ(half(kSmallestNormal), 0.0f);
  }
  EXPECT_GT(half(kSmallestNormal), 0.0f);
}

TEST(DenormalsAreZero, KeepsThoseOfHalfPrecision) {
  const DenormalsAreZero scope;
  for (std::uint16_t bits = 0; bits < 0x400; ++bits) {
    volatile std::uint16_t unknown = bits;
    const float expected = static_cast<float>(bits) * 0x1p-24f;
    EXPECT_EQ(base::to_float(base::float16{unknown}), expected);
    EXPECT_EQ(base::from_float<base::float16>(expected).bits, bits);
  }
}

}  // namespace
}  // namespace minference::cpu
