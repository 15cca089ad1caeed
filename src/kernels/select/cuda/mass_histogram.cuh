#pragma once

#include "kernels/select/cuda/adaptive.cuh"

// What a chunk's members keep of the mass, by the largest threshold at which they do.
namespace minference::kernels::cuda {

// Masses are added up in fixed point, so that no order of atomics shows. 2^-34 of a row's mass, rounded for each
// of a million members, is 3e-8 off in the sum if errors are independent; 2^14, bands and columns of 128 heads of 64 rows, fits a high word.
inline constexpr double kMassUnit = 0x1p-34;
inline constexpr int kLowBits = 18;

__device__ inline std::int64_t to_fixed(double mass) {
  return __double2ll_rn(mass * (1 / kMassUnit));
}

// Shared memory adds 32-bit words only.
class MassHistogram {
 public:
  __device__ void clear() {
    for (int code = threadIdx.x; code < kCodes; code += kWeighThreads) low_[code] = 0, high_[code] = 0;
  }

  __device__ void add(std::int32_t code, std::int64_t mass) {
    static_assert((kChunkBands * (kBand + 3ll) << kLowBits) < 1ll << 32,
                  "a word holds all of a chunk's low bits");
    atomicAdd(&low_[code], static_cast<std::uint32_t>(mass) & kLowMask);
    atomicAdd(&high_[code], static_cast<std::int32_t>(mass >> kLowBits));
  }

  __device__ void add_to(std::int64_t* histogram) const {
    for (int code = threadIdx.x; code < kCodes; code += kWeighThreads) {
      const std::int64_t mass = (std::int64_t{high_[code]} << kLowBits) + low_[code];
      // Two's complement: unsigned addition is the signed one.
      if (mass != 0)
        atomicAdd(reinterpret_cast<unsigned long long*>(histogram + code),
                  static_cast<unsigned long long>(mass));
    }
  }

  static __device__ std::int64_t warp_sum(std::int64_t mass) {
    const auto low =
        __reduce_add_sync(minference::cuda::kAllLanes, static_cast<std::uint32_t>(mass) & kLowMask);
    const auto high =
        __reduce_add_sync(minference::cuda::kAllLanes, static_cast<std::int32_t>(mass >> kLowBits));
    return (std::int64_t{high} << kLowBits) + low;
  }

 private:
  static constexpr std::uint32_t kLowMask = (1u << kLowBits) - 1;

  std::uint32_t low_[kCodes];
  std::int32_t high_[kCodes];
};

}  // namespace minference::kernels::cuda
