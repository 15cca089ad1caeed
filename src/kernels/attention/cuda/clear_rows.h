#pragma once

#include "base/tensor.h"
#include "cuda/stream.h"

namespace minference::kernels::cuda {

// What rows that attend to nothing have: 0 in `out`, of 16-bit elements, and -inf in `lse`, where it has data.
void clear_rows(const base::OutputHeads& out, const base::RowsView& lse, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
