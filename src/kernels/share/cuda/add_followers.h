#pragma once

#include <cstdint>
#include <span>

#include "cuda/stream.h"

namespace minference::kernels::cuda {

inline constexpr std::int64_t kMaxSharingHeads = 128;  // what a launch takes as arguments

// Rows of floats of heads of which some share an index (sparse/shared_heads.h), in device memory.
struct DeviceSharedRows {
  float* rows = nullptr;              // [num_heads, stride]
  std::int64_t stride = 0, size = 0;  // size <= stride
  std::span<const std::int32_t>
      leaders;  // host memory: the heads to whose rows those of their followers are added
  std::span<const std::int32_t> next;  // host memory, [num_heads], at most kMaxSharingHeads
};

// Adds to the leaders' rows those of their followers, one after the other, as the CPU does. Asynchronous on `stream`,
// without host synchronisation.
void add_followers(const DeviceSharedRows& call, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
