#pragma once

#include <cstdint>

#include "base/host_device.h"

// The bisection that finds the threshold of an adaptive selection, one step at a time or several at once.
//
// It ends at the largest code of a range that passes, if codes that pass are smaller than those that don't.
// Where that is not so, which is possible, the path decides: several steps at once take the same one.
namespace minference::kernels {

// Thresholds are floats of at least 0, which are ordered like their bits; 7 bits of the mantissa settle one to
// 1 %.
inline constexpr int kIgnoredBits = 16;
inline constexpr std::uint32_t kLargestCode = 0x7f7fffff >> kIgnoredBits;  // of FLT_MAX

MINFERENCE_HD constexpr float threshold_of(std::uint32_t code) {
  return __builtin_bit_cast(float, code << kIgnoredBits);
}

// Codes low .. high. Low passes, or nothing does.
struct CodeRange {
  std::uint32_t low = 0, high = kLargestCode;

  MINFERENCE_HD constexpr bool found() const { return low >= high; }
  // The one to try next.
  MINFERENCE_HD constexpr std::uint32_t middle() const { return low + (high - low + 1) / 2; }
  MINFERENCE_HD constexpr CodeRange half(bool middle_passes) const {
    return middle_passes ? CodeRange{middle(), high} : CodeRange{low, middle() - 1};
  }
};

// What `Steps` steps may try, whichever way they go: probes 1 .. 2^Steps - 1, in ascending order of their codes.
template <int Steps>
struct Probes {
  static constexpr int kCount = (1 << Steps) - 1;

  // Codes of probes that no way leads to are those where the way ends.
  static MINFERENCE_HD constexpr std::uint32_t code(CodeRange range, int probe) {
    for (int at = 1 << (Steps - 1), step = at / 2; !range.found(); step /= 2) {
      if (at == probe) return range.middle();
      range = range.half(probe > at);
      at += probe > at ? step : -step;
    }
    return range.low;
  }

  // The range after these steps. passes[probe - 1]: whether its code does.
  static MINFERENCE_HD constexpr CodeRange search(CodeRange range, const bool (&passes)[kCount]) {
    for (int at = 1 << (Steps - 1), step = at / 2, left = Steps; left > 0 && !range.found();
         step /= 2, --left) {
      const bool upper = passes[at - 1];
      range = range.half(upper);
      at += upper ? step : -step;
    }
    return range;
  }
};

}  // namespace minference::kernels
