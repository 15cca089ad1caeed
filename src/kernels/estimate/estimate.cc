#include "kernels/estimate/estimate.h"

#include "kernels/estimate/cpu/drive.h"

namespace minference::kernels {
namespace {

bool supports_all(base::DType, std::int64_t) {
  return true;
}

template <const estimate::Steps& (*steps)()>
void run(const EstimateCall& call, base::Executor& executor) {
  estimate::drive(steps(), call, executor);
}

constexpr EstimateKernel kKernels[] = {
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
