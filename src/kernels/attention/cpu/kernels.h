#pragma once

#include "kernels/attention/attention.h"

// The entry points of the CPU implementations, one namespace an instruction set (AttentionKernel::run's
// contract).
namespace minference::kernels {

namespace portable {
void attention(const AttentionCall& call, base::Executor& executor);
}

}  // namespace minference::kernels
