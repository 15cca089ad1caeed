#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"

// The threshold of an adaptive selection from one pass over its members: what they keep is a step function of
// the threshold, so each member adds its steps to a histogram over thresholds. Sums from above are what is kept.
namespace minference::kernels {

// Floats of at least 0 are ordered like their bits; 7 bits of the mantissa settle a threshold to 1 %. Code 0
// stands for a threshold of 0, others for one just above 2^-44 up to 2^20: 128 heads that share an index, with
// all mass in one column, are worth less.
inline constexpr int kIgnoredBits = 16, kCodeBits = 13;
inline constexpr std::int32_t kCodes = 1 << kCodeBits;
inline constexpr std::int32_t kBitsOfCode0 = (127 - 44) << 7;

MINFERENCE_HD constexpr float threshold_of(std::int32_t code) {
  if (code == 0) return 0;
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(code + kBitsOfCode0) << kIgnoredBits);
}

// The largest code whose threshold `worth`, at least 0, reaches.
MINFERENCE_HD constexpr std::int32_t code_of(float worth) {
  const auto bits = static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, worth) >> kIgnoredBits);
  return base::clamp(bits - kBitsOfCode0, 0, kCodes - 1);
}

MINFERENCE_HD constexpr float worth_of_column(float own, double columns_per_tile) {
  return static_cast<float>(double{own} * columns_per_tile);
}

// A band's share of a column: the diagonals of the band that cross it in the sampled rows.
struct Crossing {
  std::int32_t code;  // of the band
  double mass;
};

// What a column adds to the histogram at its own code, and at the codes of the bands that cross it.
struct ColumnSteps {
  double own, first, second;
};

// A kept column adds what is left of its sum after the kept bands that cross it.
MINFERENCE_HD constexpr ColumnSteps steps_of_column(double sum, std::int32_t code, Crossing first,
                                                    Crossing second) {
  const bool swap = first.code < second.code;
  const Crossing high = swap ? second : first, low = swap ? first : second;
  const double alone = base::max(0.0, sum), with_high = base::max(0.0, sum - high.mass),
               with_both = base::max(0.0, sum - high.mass - low.mass);
  const double own = high.code < code ? alone : low.code < code ? with_high : with_both;
  const double at_high = high.code < code ? with_high - alone : 0;
  const double at_low = low.code < code ? with_both - with_high : 0;
  return {own, swap ? at_low : at_high, swap ? at_high : at_low};
}

// The largest code that passes, if codes that pass are smaller than those that don't. Where that is not so,
// which is possible, this path decides. Code 0 passes, or nothing does.
template <class Passes>
MINFERENCE_HD constexpr std::int32_t largest_code(const Passes& passes) {
  std::int32_t code = 0;
  for (std::int32_t bit = kCodes / 2; bit > 0; bit /= 2)
    if (passes(code | bit)) code |= bit;
  return code;
}

}  // namespace minference::kernels
