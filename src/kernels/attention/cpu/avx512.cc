#include "cpu/avx512.h"

#include "kernels/attention/cpu/f32_policy.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_loop.h"

namespace minference::kernels::avx512 {

// 24 accumulators, as in avx512bf16.cc.
const SliceKernel kSliceKernel = make_slice_kernel<F32Policy<cpu::avx512::Simd, 6, 4>>(base::DType::f32);

}  // namespace minference::kernels::avx512
