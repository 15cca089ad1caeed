#include "kernels/estimate/estimate.h"

#include "kernels/estimate/cpu/drive.h"

namespace minference::kernels {
namespace {

bool supports_all(base::DType, std::int64_t) {
  return true;
}
bool supports_multiples_of_8(base::DType, std::int64_t head_dim) {
  return head_dim % 8 == 0;
}
bool supports_bf16(base::DType dtype, std::int64_t head_dim) {
  return dtype == base::DType::bf16 && head_dim % 8 == 0;
}

template <const estimate::Steps& (*steps)()>
void run(const EstimateCall& call, base::Executor& executor) {
  estimate::drive(steps(), call, executor);
}

constexpr EstimateKernel kKernels[] = {
    {"avx512bf16", base::Isa::avx512bf16, supports_bf16, run<estimate::avx512bf16_steps>},
    {"avx512", base::Isa::avx512, supports_multiples_of_8, run<estimate::avx512_steps>},
    {"avx2", base::Isa::avx2, supports_multiples_of_8, run<estimate::avx2_steps>},
    {"portable", base::Isa::portable, supports_all, run<estimate::portable_steps>},
};

}  // namespace

std::span<const EstimateKernel> estimate_kernels() {
  return kKernels;
}

const EstimateKernel& select_estimate(base::Isa isa, base::DType dtype, std::int64_t head_dim) {
  for (const EstimateKernel& kernel : kKernels)
    if (kernel.required <= isa && kernel.supports(dtype, head_dim)) return kernel;
  return kKernels[std::size(kKernels) - 1];
}

}  // namespace minference::kernels
