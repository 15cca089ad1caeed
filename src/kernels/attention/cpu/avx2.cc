#include "cpu/avx2.h"

#include "kernels/attention/cpu/f32_policy.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_loop.h"

namespace minference::kernels::avx2 {

// 12 accumulators of the 16 registers, 2 vectors of query, one broadcast.
const SliceKernel kSliceKernel = make_slice_kernel<F32Policy<cpu::avx2::Simd, 6, 1>>(base::DType::f32);

}  // namespace minference::kernels::avx2
