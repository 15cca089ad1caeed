#pragma once

#include "base/host_device.h"

// What <algorithm> and <numeric> have and device code may not call.
namespace minference::base {

template <class T>
MINFERENCE_HD constexpr T min(T a, T b) {
  return b < a ? b : a;
}

template <class T>
MINFERENCE_HD constexpr T max(T a, T b) {
  return a < b ? b : a;
}

template <class T>
MINFERENCE_HD constexpr T clamp(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

// Quotient of non-negative numbers, rounded up, and the next multiple.
template <class T>
MINFERENCE_HD constexpr T divide_up(T x, T divisor) {
  return (x + divisor - 1) / divisor;
}

template <class T>
MINFERENCE_HD constexpr T round_up(T x, T multiple) {
  return divide_up(x, multiple) * multiple;
}

}  // namespace minference::base
