#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/cpu/slice_kernel.h"

namespace minference::kernels {

// AttentionKernel::run for the transposed-score dataflow: keys and values become operands once per KV head
// (where they are not operands already) and serve all row slices of all query heads of its group.
void transposed_attention(const AttentionCall& call, base::Executor& executor, const SliceKernel& kernel);

}  // namespace minference::kernels
