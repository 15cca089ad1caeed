#pragma once

#include <cfloat>

#include "cuda/block.cuh"
#include "kernels/select/bisection.h"
#include "kernels/select/cuda/top_k.cuh"
#include "kernels/select/select.h"

// kernels/select/adaptive.cc, a head by many CTAs: each has a chunk of its keys and offsets, in every step.
// docs/algorithm.md, "Selection: adaptive", derives what is computed.
namespace minference::kernels::cuda {

inline constexpr int kBand = 64;           // offsets of a band, and rows behind the sums
inline constexpr int kLeastColumns = 128;  // docs/algorithm.md, "Why a floor of columns"
inline constexpr int kChunkBands = 64, kChunk = kChunkBands * kBand;

// Steps of the bisection that are taken together, and how often.
inline constexpr int kSearchSteps = 4, kSearchRounds = 4;
using SearchProbes = Probes<kSearchSteps>;
static_assert(kLargestCode >> kSearchSteps * kSearchRounds == 0);

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

struct AdaptiveSearch {
  CodeRange range;
  double wanted;  // mass
};

// What one head needs in device memory, for each of the heads that run at the same time. Lists of bands have
// one more than there are, without any mass.
class AdaptiveScratch {
 public:
  AdaptiveScratch(char* data, std::int64_t kv_len, int num_heads)
      : data_(data),
        bands_(bands_of(kv_len)),
        chunks_(chunks_of(kv_len)),
        head_bytes_(bytes_per_head(kv_len)),
        num_heads_(num_heads) {}

  static std::int64_t bytes_per_head(std::int64_t kv_len) {
    constexpr std::int64_t kMemberBytes = sizeof(double) + 2 * sizeof(float);
    constexpr std::int64_t kBandBytes = kBand * kMemberBytes + sizeof(double) + sizeof(float);
    constexpr std::int64_t kRoundBytes = SearchProbes::kCount * sizeof(double);
    const std::int64_t bytes = kSearchRounds * (sizeof(AdaptiveSearch) + chunks_of(kv_len) * kRoundBytes) +
                               bands_of(kv_len) * kBandBytes;
    return base::round_up<std::int64_t>(bytes, sizeof(double));
  }
  // Of the keys and offsets of a head.
  static std::int64_t chunks_of(std::int64_t kv_len) {
    return base::divide_up<std::int64_t>(bands_of(kv_len), kChunkBands);
  }
  int num_heads() const { return num_heads_; }

  __device__ void move_to(int slot) { data_ += slot * head_bytes_; }

  // [kSearchRounds]: where the search stands before each round. [kSearchRounds, chunks, probes]: the mass that
  // each chunk keeps at the threshold of each probe.
  __device__ AdaptiveSearch* searches() const { return reinterpret_cast<AdaptiveSearch*>(data_); }
  __device__ double* kept(int round) const {
    return reinterpret_cast<double*>(searches() + kSearchRounds) + round * chunks_ * SearchProbes::kCount;
  }
  // [bands, 64]: a band's diagonal sums before each of its offsets. [bands]: of all of them.
  __device__ double* prefix() const { return kept(kSearchRounds); }
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
  std::int64_t bands_, chunks_, head_bytes_;
  int num_heads_;
};

// A step for a chunk a CTA; a step needs all chunks of those before it.
class AdaptiveSelection {
 public:
  __device__ AdaptiveSelection(const SelectArguments& arguments, const AdaptiveTask& task,
                               const AdaptiveScratch& scratch, int chunk, int num_chunks)
      : length_(arguments.kv_len),
        num_bands_(base::divide_up(arguments.kv_len, kBand)),
        chunk_(chunk),
        num_chunks_(num_chunks),
        column_sums_(arguments.column_sums + task.head * arguments.head_stride),
        diagonal_sums_(arguments.diagonal_sums + task.head * arguments.head_stride),
        columns_(arguments.columns + task.head * sparse::member_words(arguments.kv_len)),
        offsets_(arguments.offsets + task.head * sparse::member_words(arguments.kv_len)),
        task_(task),
        scratch_(scratch),
        prefix_(scratch.prefix()),
        band_mass_(scratch.band_mass()),
        own_(scratch.own()),
        column_worth_(scratch.column_worth()),
        band_worth_(scratch.band_worth()) {}

  __device__ void sum_bands() {
    for (int band = first_band() + warp(); band < end_band(num_bands_ + 1); band += kSelectWarps) {
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

  __device__ void find_own_columns() {
    for (int k = first_key(); k < end_key(); k += kSelectThreads) {
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
    __shared__ double prefixes[kSelectWarps][kKeys + 1];
    double* prefix = prefixes[warp()];
    for (int band = first_band() + warp(); band < end_band(num_bands_ + 1); band += kSelectWarps) {
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

  // The columns that are kept whatever the share, by one CTA of the head.
  __device__ void write_least_columns(TopKMemory& memory) {
    top_k_bits(own_, length_, kLeastColumns, kForcedColumns, columns_, memory);
  }

  // What the chunk keeps at the threshold of each probe of a round.
  __device__ void probe(int round) {
    constexpr int kProbes = SearchProbes::kCount;
    __shared__ float thresholds[kProbes];
    __shared__ double warp_kept[kSelectWarps][kProbes];
    const AdaptiveSearch search = search_after(round);
    if (chunk_ == 0 && threadIdx.x == 0) scratch_.searches()[round] = search;
    if (threadIdx.x < kProbes)
      thresholds[threadIdx.x] =
          threshold_of(SearchProbes::code(search.range, static_cast<int>(threadIdx.x) + 1));
    __syncthreads();

    double kept[kProbes] = {};
    for (int band = first_band() + static_cast<int>(threadIdx.x); band < end_band(num_bands_);
         band += kSelectThreads) {
#pragma unroll
      for (int i = 0; i < kProbes; ++i)
        if (band_worth_[band] >= thresholds[i]) kept[i] += band_mass_[band];
    }
    for (int k = first_key(); k < end_key(); k += kSelectThreads) {
      const float worth = column_worth_[k];
      // Thresholds ascend.
      if (!(worth >= thresholds[0])) continue;
      const auto [begin, middle, end] = crossing_of(k);
      const double sum = column_sums_[k], in_first = sum_in_band(begin, middle),
                   in_second = sum_in_band(middle, end);
      const float first_worth = band_worth_[begin / kBand], second_worth = band_worth_[middle / kBand];
#pragma unroll
      for (int i = 0; i < kProbes; ++i) {
        double left = sum;
        if (first_worth >= thresholds[i]) left -= in_first;
        if (second_worth >= thresholds[i]) left -= in_second;
        if (worth >= thresholds[i]) kept[i] += fmax(0.0, left);
      }
    }

#pragma unroll
    for (int i = 0; i < kProbes; ++i) {
      const double sum = minference::cuda::warp_sum(kept[i]);
      if (lane() == 0) warp_kept[warp()][i] = sum;
    }
    __syncthreads();
    if (threadIdx.x < kProbes) {
      double sum = 0;
      for (int w = 0; w < kSelectWarps; ++w) sum += warp_kept[w][threadIdx.x];
      scratch_.kept(round)[chunk_ * kProbes + threadIdx.x] = sum;
    }
  }

  __device__ void write_members() {
    const float threshold = threshold_of(search_after(kSearchRounds).range.low);
    // Words of columns and of offsets, 32 each.
    const int first = chunk_ * (kChunk / 32);
    const int end = base::min(first + kChunk / 32, static_cast<int>(sparse::member_words(length_)));
    for (int w = first + warp(); w < end; w += kSelectWarps) {
      const int k = 32 * w + lane();
      const bool worthy = k < length_ && threshold > 0 && column_worth_[k] >= threshold;
      const std::uint32_t members = __ballot_sync(minference::cuda::kAllLanes, worthy);
      if (lane() == 0) columns_[w] |= members;
    }
    // A kept band's two offsets are its first one and the next band's, which cover it together.
    for (int w = first + static_cast<int>(threadIdx.x); w < end; w += kSelectThreads) {
      const int band = w / 2;
      std::uint32_t members = 0;
      if (w % 2 == 0) members = keeps(band, threshold) || (band > 0 && keeps(band - 1, threshold));
      const int last = length_ - 1;
      if (last / 32 == w && keeps(last / kBand, threshold)) members |= 1u << last % 32;
      offsets_[w] = members;
    }
  }

 private:
  static __device__ int warp() {
    return static_cast<int>(threadIdx.x / 32);
  }
  static __device__ int lane() {
    return static_cast<int>(threadIdx.x % 32);
  }

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

  __device__ int first_band() const {
    return chunk_ * kChunkBands;
  }
  __device__ int end_band(int end) const {
    return base::min((chunk_ + 1) * kChunkBands, end);
  }
  __device__ int first_key() const {
    return chunk_ * kChunk + static_cast<int>(threadIdx.x);
  }
  __device__ int end_key() const {
    return base::min((chunk_ + 1) * kChunk, length_);
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

  __device__ bool keeps(int band, float threshold) const {
    return band_worth_[band] >= threshold;
  }

  // Where the search for the largest worth at which the members keep the share stands after so many rounds, in
  // all threads. A share of all is found at once, at 0. Synchronises the CTA.
  __device__ AdaptiveSearch search_after(int rounds) const {
    if (rounds == 0) {
      double mass = 0;
      for (int band = threadIdx.x; band < num_bands_; band += kSelectThreads) mass += band_mass_[band];
      mass = minference::cuda::block_sum<kSelectThreads>(mass);
      const double wanted = task_.share * mass;
      return {wanted < mass ? CodeRange{} : CodeRange{0, 0}, wanted};
    }
    __shared__ bool passes[SearchProbes::kCount];
    AdaptiveSearch search = scratch_.searches()[rounds - 1];
    if (threadIdx.x < SearchProbes::kCount) {
      const double* kept = scratch_.kept(rounds - 1) + threadIdx.x;
      double sum = 0;
      for (int chunk = 0; chunk < num_chunks_; ++chunk) sum += kept[chunk * SearchProbes::kCount];
      passes[threadIdx.x] = sum >= search.wanted;
    }
    __syncthreads();
    search.range = SearchProbes::search(search.range, passes);
    return search;
  }

  std::int32_t length_;
  std::int32_t num_bands_;
  std::int32_t chunk_, num_chunks_;
  const float* column_sums_;
  const float* diagonal_sums_;
  std::uint32_t* columns_;
  std::uint32_t* offsets_;
  AdaptiveTask task_;
  AdaptiveScratch scratch_;
  double* prefix_;
  double* band_mass_;
  float* own_;
  float* column_worth_;
  float* band_worth_;
};

}  // namespace minference::kernels::cuda
