#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/cpu/amx_layout.h"

namespace minference::kernels::amx {

// AttentionKernel::run for bf16 and head_dim a multiple of 8 up to 256, over stages that are compiled
// elsewhere.
void attention(const AttentionCall& call, base::Executor& executor, const Stages& stages);

}  // namespace minference::kernels::amx
