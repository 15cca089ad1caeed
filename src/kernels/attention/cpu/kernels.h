#pragma once

#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/slice_kernel.h"

// The CPU implementations, one namespace an instruction set.
namespace minference::kernels {

namespace amx {
extern const Stages kStages;  // bf16 products; bf16 inputs only
}
namespace avx512bf16 {
extern const SliceKernel kSliceKernel;  // bf16 products; bf16 inputs only
}
namespace avx512 {
extern const SliceKernel kSliceKernel;  // f32 products
}
namespace avx2 {
extern const SliceKernel kSliceKernel;  // f32 products
}
namespace portable {
extern const SliceKernel kSliceKernel;  // f32 products
}

}  // namespace minference::kernels
