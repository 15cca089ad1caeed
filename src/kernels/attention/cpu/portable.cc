#include "cpu/portable.h"

#include "kernels/attention/cpu/f32_policy.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_loop.h"

namespace minference::kernels::portable {

// 8 accumulators of the 16 registers that every x86-64 has, 4 vectors of query, products.
const SliceKernel kSliceKernel = make_slice_kernel<F32Policy<cpu::portable::Simd, 2, 1>>(base::DType::f32);

}  // namespace minference::kernels::portable
