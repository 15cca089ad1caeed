#pragma once

#include "base/tensor.h"
#include "cuda/stream.h"

namespace minference::kernels::cuda {

// kernels/pool/pool.h in device memory, float16 or bfloat16, with the CPU's bits. Asynchronous on `stream`.
void pool_blocks(const base::InputHeads& x, float* out, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
