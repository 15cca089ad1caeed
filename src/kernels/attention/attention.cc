#include "kernels/attention/attention.h"

#include <array>

#include "kernels/attention/cpu/kernels.h"

namespace minference::kernels {
namespace {

bool any_shape(base::DType, std::int64_t) {
  return true;
}

constexpr std::array kKernels = {
    AttentionKernel{"portable", base::Isa::portable, any_shape, portable::attention, 1.0 / 64, 0.25},
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
