#pragma once

#include <cstdint>

#include "base/executor.h"
#include "base/tensor.h"

namespace minference::kernels {

// out[h, b, d] = mean over rows r in [64 b, min(64 b + 64, rows)) of x[h, r, d]: a short last block is
// averaged over its true count. out is [heads, ceil(rows / 64), dim] f32, contiguous.
void pool_blocks(const base::InputHeads& x, float* out, base::Executor& executor);

}  // namespace minference::kernels
