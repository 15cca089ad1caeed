#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace minference::base {

// Unsigned keys in the order of the floats whose bits are given; NaN first, -0 and 0 equal.
MINFERENCE_HD constexpr std::uint32_t ordered(std::uint32_t float_bits) {
  constexpr std::uint32_t kSign = 0x80000000u, kInfinity = 0x7f800000u;
  if ((float_bits & ~kSign) > kInfinity) return 0;
  if (float_bits == kSign) return kSign;
  return float_bits & kSign ? ~float_bits : float_bits | kSign;
}

}  // namespace minference::base
