#pragma once

#include "base/arena.h"
#include "base/arithmetic.h"
#include "cuda/block.cuh"
#include "kernels/select/select.h"
#include "kernels/select/threshold.h"
#include "sparse/member_bits.h"

// kernels/select/adaptive.cc in three kernels: weigh (adaptive_weigh.cuh), find the cuts (adaptive_cuts.cuh), and
// write members (adaptive_members.cuh). docs/algorithm.md, "Selection: adaptive", derives what is computed.
//
// Keys are numbered by their distance from the last one: then the offsets that cross the key at distance m are
// m - 63 .. m, and those keys and offsets that meet have nearly the same numbers. A band of keys is the 64 keys
// at the distances that are its offsets.
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
  double columns_per_tile;  // that cost as much
};

// Which members are kept: those that are worth the threshold, and the columns with the most mass of their own.
struct AdaptiveCuts {
  float threshold;
  float least_own;              // of the last of those columns
  std::int32_t least_distance;  // and where it is: those of its mass count from there on
};

inline constexpr int kWarpBands = 8, kWeighThreads = 512, kWeighWarps = kWeighThreads / 32;
inline constexpr int kChunkBands = kWarpBands * kWeighWarps;

// Device memory of the heads that run at the same time.
struct AdaptiveScratch {
  std::int64_t num_bands, num_chunks;  // of a head
  std::int64_t* histograms;            // [heads, kCodes], in units of kMassUnit
  double* chunk_mass;                  // [heads, num_chunks]: of the diagonal sums
  float* own;                          // [heads, num_bands, kBand]: by distance; -1: forced, or no key
  float* largest_own;                  // [heads, num_bands]: of each band of keys
  float* band_worth;                   // [heads, num_bands]
  AdaptiveCuts* cuts;                  // [heads]

  // With an arena that only counts, how many bytes a head needs.
  AdaptiveScratch(base::Arena& arena, std::int64_t kv_len, std::int64_t heads)
      : num_bands(base::divide_up<std::int64_t>(kv_len, kBand)),
        num_chunks(base::divide_up<std::int64_t>(num_bands, kChunkBands)),
        histograms(arena.take<std::int64_t>(heads * kCodes)),
        chunk_mass(arena.take<double>(heads * num_chunks)),
        own(arena.take<float>(heads * num_bands * kBand)),
        largest_own(arena.take<float>(heads * num_bands)),
        band_worth(arena.take<float>(heads * num_bands)),
        cuts(arena.take<AdaptiveCuts>(heads)) {}
};

// One head's part of the arguments, in the CTAs that work on it.
struct AdaptiveHead {
  std::int32_t length, num_bands, num_chunks;
  const float* column_sums;
  const float* diagonal_sums;
  std::uint32_t* columns;
  std::uint32_t* offsets;
  double share, columns_per_tile;
  std::int64_t* histogram;
  double* chunk_mass;
  float* own;
  float* largest_own;
  float* band_worth;
  AdaptiveCuts* cuts;

  __device__ AdaptiveHead(const SelectArguments& arguments, const AdaptiveTask& task,
                          const AdaptiveScratch& scratch, int slot)
      : length(arguments.kv_len),
        num_bands(static_cast<int>(scratch.num_bands)),
        num_chunks(static_cast<int>(scratch.num_chunks)),
        column_sums(arguments.column_sums + task.head * arguments.head_stride),
        diagonal_sums(arguments.diagonal_sums + task.head * arguments.head_stride),
        columns(arguments.columns + task.head * sparse::member_words(length)),
        offsets(arguments.offsets + task.head * sparse::member_words(length)),
        share(task.share),
        columns_per_tile(task.columns_per_tile),
        histogram(scratch.histograms + std::int64_t{slot} * kCodes),
        chunk_mass(scratch.chunk_mass + slot * scratch.num_chunks),
        own(scratch.own + slot * scratch.num_bands * kBand),
        largest_own(scratch.largest_own + slot * scratch.num_bands),
        band_worth(scratch.band_worth + slot * scratch.num_bands),
        cuts(scratch.cuts + slot) {}
};

}  // namespace minference::kernels::cuda
