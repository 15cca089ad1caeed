#pragma once

#include <cfloat>

#include "cuda/block.cuh"
#include "kernels/select/cuda/top_k.cuh"
#include "kernels/select/select.h"

// kernels/select/adaptive.cc by one CTA a head. docs/algorithm.md, "Selection: adaptive", derives what is
// computed.
namespace minference::kernels::cuda {

inline constexpr int kBand = 64;           // offsets of a band, and rows behind the sums
inline constexpr int kLeastColumns = 128;  // docs/algorithm.md, "Why a floor of columns"

struct SelectArguments {
  const float* column_sums;
  const float* diagonal_sums;
  std::int64_t head_stride;
  std::int32_t kv_len;
  std::uint32_t* columns;
  std::uint32_t* offsets;
};

struct AdaptiveTask {
  std::int32_t head;
  double share;
  double column_cost;
};

struct AdaptiveMemory {
  TopKMemory top_k;
  double own_prefix[kSelectWarps][2 * kBand + 1];
};

// What one head needs in device memory, for each of the heads that run at the same time. Every list has one
// band more than there are, without any mass.
class AdaptiveScratch {
 public:
  AdaptiveScratch(char* data, std::int64_t kv_len, int num_heads)
      : data_(data), bands_(bands_of(kv_len)), head_bytes_(bytes_per_head(kv_len)), num_heads_(num_heads) {}

  static std::int64_t bytes_per_head(std::int64_t kv_len) {
    constexpr std::int64_t kMemberBytes = sizeof(double) + 2 * sizeof(float);
    constexpr std::int64_t kBandBytes = kBand * kMemberBytes + sizeof(double) + sizeof(float);
    return base::round_up<std::int64_t>(bands_of(kv_len) * kBandBytes, sizeof(double));
  }
  int num_heads() const { return num_heads_; }

  __device__ void move_to(int slot) { data_ += slot * head_bytes_; }

  // [bands, 64]: a band's diagonal sums before each of its offsets. [bands]: of all of them.
  __device__ double* prefix() const { return reinterpret_cast<double*>(data_); }
  __device__ double* band_mass() const { return prefix() + bands_ * kBand; }
  // [kv_len] each: a column's own mass, and that per cost.
  __device__ float* own() const { return reinterpret_cast<float*>(band_mass() + bands_); }
  __device__ float* column_worth() const { return own() + bands_ * kBand; }
  __device__ float* band_worth() const { return column_worth() + bands_ * kBand; }

 private:
  static std::int64_t bands_of(std::int64_t kv_len) {
    return base::divide_up<std::int64_t>(kv_len, kBand) + 1;
  }

  char* data_;
  std::int64_t bands_, head_bytes_;
  int num_heads_;
};

class AdaptiveSelection {
 public:
  __device__ AdaptiveSelection(const SelectArguments& arguments, const AdaptiveTask& task,
                               const AdaptiveScratch& scratch, AdaptiveMemory& memory)
      : length_(arguments.kv_len),
        num_bands_(base::divide_up(arguments.kv_len, kBand)),
        column_sums_(arguments.column_sums + task.head * arguments.head_stride),
        diagonal_sums_(arguments.diagonal_sums + task.head * arguments.head_stride),
        columns_(arguments.columns + task.head * sparse::member_words(arguments.kv_len)),
        offsets_(arguments.offsets + task.head * sparse::member_words(arguments.kv_len)),
        task_(task),
        prefix_(scratch.prefix()),
        band_mass_(scratch.band_mass()),
        own_(scratch.own()),
        column_worth_(scratch.column_worth()),
        band_worth_(scratch.band_worth()),
        memory_(memory) {}

  __device__ void run() {
    sum_bands();
    __syncthreads();
    find_own_columns();
    __syncthreads();
    top_k_bits(own_, length_, kLeastColumns, kForcedColumns, columns_, memory_.top_k);
    __syncthreads();
    weigh_bands();
    __syncthreads();
    write_members(threshold());
  }

 private:
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  // Exclusive sums over a warp of `x`, and the sum of all.
  static __device__ double scan_warp(double x, double& all) {
    double inclusive = x;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double before = __shfl_up_sync(minference::cuda::kAllLanes, inclusive, distance);
      if (lane() >= distance) inclusive += before;
    }
    all = __shfl_sync(minference::cuda::kAllLanes, inclusive, 31);
    const double exclusive = __shfl_up_sync(minference::cuda::kAllLanes, inclusive, 1);
    return lane() == 0 ? 0.0 : exclusive;
  }

  __device__ void sum_bands() {
    for (int band = warp(); band <= num_bands_; band += kSelectWarps) {
      const int offset = band * kBand + 2 * lane();
      const double first = offset < length_ ? diagonal_sums_[offset] : 0.0f;
      const double second = offset + 1 < length_ ? diagonal_sums_[offset + 1] : 0.0f;
      double all;
      const double before = scan_warp(first + second, all);
      prefix_[offset] = before;
      prefix_[offset + 1] = before + first;
      if (lane() == 0) band_mass_[band] = all;
    }
  }

  // The sum of the diagonals [begin, end) of one band; `end` may be its end.
  __device__ double sum_in_band(int begin, int end) const {
    return (end % kBand == 0 && end > begin ? band_mass_[begin / kBand] : prefix_[end]) - prefix_[begin];
  }

  // The offsets that cross key k in the sampled rows, [begin, end), cut where a band ends.
  struct Crossing {
    int begin, middle, end;
  };
  __device__ Crossing crossing_of(int k) const {
    const int begin = base::max(0, length_ - kBand - k), end = length_ - k;
    return {begin, base::min((begin / kBand + 1) * kBand, end), end};
  }

  __device__ void find_own_columns() {
    for (int k = threadIdx.x; k < length_; k += kSelectThreads) {
      const auto [begin, middle, end] = crossing_of(k);
      const double even = (sum_in_band(begin, middle) + sum_in_band(middle, end)) / kBand;
      const float own = fmaxf(0.0f, static_cast<float>(column_sums_[k] - even));
      own_[k] = own;
      column_worth_[k] =
          k < kForcedColumns ? FLT_MAX : static_cast<float>(static_cast<double>(own) / task_.column_cost);
    }
  }

  __device__ void weigh_bands() {
    constexpr int kKeys = 2 * kBand, kLaneKeys = kKeys / 32;
    double* prefix = memory_.own_prefix[warp()];
    for (int band = warp(); band <= num_bands_; band += kSelectWarps) {
      // The keys that cross the band's offsets, one of them in front.
      const int first = length_ - band * kBand - kKeys + kLaneKeys * lane();
      double own[kLaneKeys], sum = 0, all;
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) {
        own[i] = first + i >= 0 && first + i < length_ ? own_[first + i] : 0.0f;
        sum += own[i];
      }
      double before = scan_warp(sum, all);
#pragma unroll
      for (int i = 0; i < kLaneKeys; ++i) {
        prefix[kLaneKeys * lane() + i] = before;
        before += own[i];
      }
      if (lane() == 0) prefix[kKeys] = all;
      __syncwarp();
      double worth = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = lane() + 32 * half, offset = band * kBand + i;
        const double even = (prefix[kKeys - i] - prefix[kBand - i]) / kBand;
        if (offset < length_) worth += fmax(0.0, static_cast<double>(diagonal_sums_[offset]) - even);
      }
      worth = minference::cuda::warp_sum(worth);
      constexpr int kForcedBands = (kForcedOffsets + kBand - 1) / kBand;
      // The band behind the last is never kept.
      if (lane() == 0)
        band_worth_[band] = band == num_bands_    ? -1.0f
                            : band < kForcedBands ? FLT_MAX
                                                  : static_cast<float>(worth);
      __syncwarp();
    }
  }

  __device__ bool keeps(int band, float threshold) const {
    return band_worth_[band] >= threshold;
  }

  // A lower bound of the mass that the members of at least this worth keep.
  __device__ double kept_mass(float threshold) const {
    double kept = 0;
    for (int band = threadIdx.x; band < num_bands_; band += kSelectThreads)
      if (keeps(band, threshold)) kept += band_mass_[band];
#pragma unroll 4
    for (int k = threadIdx.x; k < length_; k += kSelectThreads) {
      if (!(column_worth_[k] >= threshold)) continue;
      const auto [begin, middle, end] = crossing_of(k);
      double left = column_sums_[k];
      if (keeps(begin / kBand, threshold)) left -= sum_in_band(begin, middle);
      if (keeps(middle / kBand, threshold)) left -= sum_in_band(middle, end);
      kept += fmax(0.0, left);
    }
    return minference::cuda::block_sum<kSelectThreads>(kept);
  }

  // The largest worth at which the members keep the share; 0 when none does.
  __device__ float threshold() const {
    double mass = 0;
    for (int band = threadIdx.x; band < num_bands_; band += kSelectThreads) mass += band_mass_[band];
    mass = minference::cuda::block_sum<kSelectThreads>(mass);
    const double wanted = task_.share * mass;
    if (!(wanted < mass)) return 0;
    // As on the CPU: positive floats are ordered like their bits, and 7 bits of the mantissa are enough.
    constexpr int kIgnoredBits = 16;
    std::uint32_t low = 0, high = __float_as_uint(FLT_MAX) >> kIgnoredBits;
    while (low < high) {
      const std::uint32_t middle = low + (high - low + 1) / 2;
      if (kept_mass(__uint_as_float(middle << kIgnoredBits)) >= wanted) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return __uint_as_float(low << kIgnoredBits);
  }

  __device__ void write_members(float threshold) {
    const int num_words = static_cast<int>(sparse::member_words(length_));
    for (int w = warp(); w < num_words; w += kSelectWarps) {
      const int k = 32 * w + lane();
      const bool worthy = k < length_ && threshold > 0 && column_worth_[k] >= threshold;
      const std::uint32_t members = __ballot_sync(minference::cuda::kAllLanes, worthy);
      if (lane() == 0) columns_[w] |= members;
    }
    // A kept band's two offsets are its first one and the next band's, which cover it together.
    for (int w = threadIdx.x; w < num_words; w += kSelectThreads) {
      const int band = w / 2;
      std::uint32_t members = 0;
      if (w % 2 == 0) members = keeps(band, threshold) || (band > 0 && keeps(band - 1, threshold));
      const int last = length_ - 1;
      if (last / 32 == w && keeps(last / kBand, threshold)) members |= 1u << last % 32;
      offsets_[w] = members;
    }
  }

  std::int32_t length_;
  std::int32_t num_bands_;
  const float* column_sums_;
  const float* diagonal_sums_;
  std::uint32_t* columns_;
  std::uint32_t* offsets_;
  AdaptiveTask task_;
  double* prefix_;
  double* band_mass_;
  float* own_;
  float* column_worth_;
  float* band_worth_;
  AdaptiveMemory& memory_;
};

}  // namespace minference::kernels::cuda
