#pragma once

#include <cfloat>

#include "kernels/select/cuda/adaptive.cuh"
#include "kernels/select/cuda/mass_histogram.cuh"
#include "kernels/select/cuda/top_k.cuh"

// What decides which members of a head are kept, by one CTA each: the threshold, and the last of the columns
// with the most mass of their own.
namespace minference::kernels::cuda {

inline constexpr int kThreadCodes = kCodes / kSelectThreads;

struct PassingCodes {
  std::uint8_t bits[kCodes / 8];

  __host__ __device__ constexpr bool operator()(std::int32_t code) const {
    return (bits[code / 8] >> code % 8 & 1) != 0;
  }
};

struct ThresholdMemory {
  using Scan = cub::BlockScan<std::int64_t, kSelectThreads, cub::BLOCK_SCAN_WARP_SCANS>;

  typename Scan::TempStorage scan;
  PassingCodes passes;
};

// The largest worth at which the members worth at least that keep the share of the mass; 0 when none does.
__device__ inline float find_threshold(const AdaptiveHead& head, ThresholdMemory& memory) {
  double mass = 0;
  for (int chunk = threadIdx.x; chunk < head.num_chunks; chunk += kSelectThreads)
    mass += head.chunk_mass[chunk];
  mass = minference::cuda::block_sum<kSelectThreads>(mass);
  const double wanted = head.share * mass;
  if (!(wanted < mass)) return 0;

  // Threads from the top, each with eight codes.
  const int first = kCodes - kThreadCodes * (static_cast<int>(threadIdx.x) + 1);
  std::int64_t steps[kThreadCodes], sum = 0, kept;
#pragma unroll
  for (int i = 0; i < kThreadCodes; ++i) sum += steps[i] = head.histogram[first + i];
  ThresholdMemory::Scan(memory.scan).ExclusiveSum(sum, kept);
  std::uint32_t passes = 0;
  static_assert(kThreadCodes == 8);
#pragma unroll
  for (int i = kThreadCodes - 1; i >= 0; --i) {
    kept += steps[i];
    passes |= (static_cast<double>(kept) * kMassUnit >= wanted ? 1u : 0u) << i;
  }
  memory.passes.bits[first / kThreadCodes] = static_cast<std::uint8_t>(passes);
  __syncthreads();
  return threshold_of(largest_code(memory.passes));
}

struct LeastMemory {
  // Bands of keys that may have one of the columns: fewer than that many lie above the cut of the bands, and of
  // those at the cut as many as are wanted, each with a column of that mass, come before all others.
  std::int32_t bands[2 * kLeastColumns];
  std::int32_t num_bands;
  std::int32_t distance;
  TopKMemory top_k;
};

class LeastColumns {
 public:
  __device__ LeastColumns(const AdaptiveHead& head, LeastMemory& memory)
      : head_(head),
        memory_(memory),
        count_(base::min(kLeastColumns, head.length) -
               base::min(static_cast<int>(kForcedColumns), head.length)) {}

  // Of equal columns those with the smaller key come first, which are farther from the end.
  __device__ void find(float& own, std::int32_t& distance) {
    own = FLT_MAX, distance = head_.length;
    if (count_ == 0) return;
    list_bands();
    const int size = memory_.num_bands * kBand;
    const auto key_at = [&](int i) { return key_of(head_.own[distance_at(i)]); };
    const TopKCut cut = find_cut(key_at, 0, size, count_, memory_.top_k);
    own = __uint_as_float(cut.key ^ 0x80000000u);  // not negative
    // Bands that are not listed may have columns of this mass too, behind those that are wanted.
    int before = 0;
    for (int begin = 0; begin < size && before < cut.ties; begin += kSelectThreads) {
      const int i = begin + static_cast<int>(threadIdx.x);
      const bool tie = i < size && key_at(i) == cut.key;
      if (tie_rank(tie, before) == cut.ties - 1 && tie) memory_.distance = distance_at(i);
    }
    __syncthreads();
    distance = memory_.distance;
  }

 private:
  static __device__ std::uint32_t key_of(float own) { return base::ordered(__float_as_uint(own)); }

  __device__ int distance_at(int i) const { return memory_.bands[i / kBand] * kBand + kBand - 1 - i % kBand; }

  // How many were true before, in `before` and in the threads below this one; adds all of them to `before`.
  __device__ int tie_rank(bool tie, int& before) {
    int rank, all;
    TopKMemory::Scan(memory_.top_k.scan).ExclusiveSum(static_cast<int>(tie), rank, all);
    __syncthreads();
    rank += before;
    before += all;
    return rank;
  }

  // In ascending order of their keys.
  __device__ void list_bands() {
    const auto key_at = [&](int i) { return key_of(head_.largest_own[head_.num_bands - 1 - i]); };
    const TopKCut cut =
        find_cut(key_at, 0, head_.num_bands, base::min(count_, head_.num_bands), memory_.top_k);
    int above_before = 0, ties_before = 0;
    for (int begin = 0; begin < head_.num_bands; begin += kSelectThreads) {
      const int i = begin + static_cast<int>(threadIdx.x);
      const std::uint32_t key = i < head_.num_bands ? key_at(i) : 0;
      const bool above = key > cut.key, tie = i < head_.num_bands && key == cut.key;
      const int rank = tie_rank(tie, ties_before), above_rank = tie_rank(above, above_before);
      if (above || (tie && rank < count_))
        memory_.bands[above_rank + base::min(rank, count_)] = head_.num_bands - 1 - i;
    }
    if (threadIdx.x == 0) memory_.num_bands = above_before + base::min(ties_before, count_);
    __syncthreads();
  }

  AdaptiveHead head_;
  LeastMemory& memory_;
  int count_;
};

}  // namespace minference::kernels::cuda
