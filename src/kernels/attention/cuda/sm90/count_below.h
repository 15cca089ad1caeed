#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace minference::kernels::cuda::sm90 {

// The number of values below `limit` in an ascending list.
MINFERENCE_HD constexpr int count_below(const std::int32_t* values, int count, int limit) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (values[middle] < limit) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace minference::kernels::cuda::sm90
