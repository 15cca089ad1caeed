#include "kernels/attention/attention.h"

#include <array>

#include "kernels/attention/cpu/amx_attention.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_attention.h"

namespace minference::kernels {
namespace {

bool any_shape(base::DType, std::int64_t) {
  return true;
}
bool bf16_only(base::DType dtype, std::int64_t) {
  return dtype == base::DType::bf16;
}

bool bf16_of_packed_dim(base::DType dtype, std::int64_t head_dim) {
  return dtype == base::DType::bf16 && head_dim <= amx::kMaxHeadDim;
}

void run_amx(const AttentionCall& call, base::Executor& executor) {
  amx::attention(call, executor, amx::kStages);
}

template <const SliceKernel& kKernel>
void run(const AttentionCall& call, base::Executor& executor) {
  transposed_attention(call, executor, kKernel);
}

// Costs: docs/kernels/attention-avx512.md, "Cost constants".
constexpr std::array kKernels = {
    AttentionKernel{"amx", base::Isa::amx, bf16_of_packed_dim, run_amx, 0.0195, 0.75, 3.6, 192},
    AttentionKernel{"avx512bf16", base::Isa::avx512bf16, bf16_only, run<avx512bf16::kSliceKernel>, 0.0165,
                    0.0, 0.0, 128},
    AttentionKernel{"avx512", base::Isa::avx512, any_shape, run<avx512::kSliceKernel>, 0.0163, 0.0, 0.0, 96},
    AttentionKernel{"avx2", base::Isa::avx2, any_shape, run<avx2::kSliceKernel>, 0.0161, 0.0, 0.0, 96},
    AttentionKernel{"portable", base::Isa::portable, any_shape, run<portable::kSliceKernel>, 0.0162, 0.0,
                    0.06, 96},
};

}  // namespace

std::span<const AttentionKernel> attention_kernels() {
  return kKernels;
}

const AttentionKernel& select_attention(base::Isa isa, base::DType dtype, std::int64_t head_dim) {
  for (const AttentionKernel& kernel : kKernels) {
    if (kernel.required <= isa && kernel.supports(dtype, head_dim)) return kernel;
  }
  return kKernels.back();
}

}  // namespace minference::kernels
