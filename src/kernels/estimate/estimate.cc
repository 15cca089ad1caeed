#include "kernels/estimate/estimate.h"

#include "kernels/estimate/cpu/drive.h"

namespace minference::kernels {
namespace {

bool any_shape(base::DType, std::int64_t) {
  return true;
}
bool bf16_only(base::DType dtype, std::int64_t) {
  return dtype == base::DType::bf16;
}

bool bf16_of_whole_tiles(base::DType dtype, std::int64_t head_dim) {
  return dtype == base::DType::bf16 && head_dim % estimate::kAmxDims == 0 &&
         head_dim <= estimate::kAmxMaxHeadDim;
}

template <const estimate::Steps& (*steps)()>
void run(const EstimateCall& call, base::Executor& executor) {
  estimate::drive(steps(), call, executor);
}

constexpr EstimateKernel kKernels[] = {
    {"amx", base::Isa::amx, bf16_of_whole_tiles, run<estimate::amx_steps>},
    {"avx512bf16", base::Isa::avx512bf16, bf16_only, run<estimate::avx512bf16_steps>},
    {"avx512", base::Isa::avx512, any_shape, run<estimate::avx512_steps>},
    {"avx2", base::Isa::avx2, any_shape, run<estimate::avx2_steps>},
    {"portable", base::Isa::portable, any_shape, run<estimate::portable_steps>},
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
