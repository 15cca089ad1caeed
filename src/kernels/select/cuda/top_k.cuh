#pragma once

#include <cub/block/block_scan.cuh>

#include "base/arithmetic.h"
#include "base/ordered.h"
#include "cuda/math.cuh"
#include "sparse/member_bits.h"

// kernels/select/top_k.h by one CTA: radix selection over histograms in shared memory.
namespace minference::kernels::cuda {

inline constexpr int kSelectThreads = 1024;
inline constexpr int kSelectWarps = kSelectThreads / 32;

// Sums crowd into few bins: eight counters a bin keep the lanes of a warp apart.
inline constexpr int kDigitBits = 11;
inline constexpr int kBins = 1 << kDigitBits;
inline constexpr int kCounters = 8;

struct TopKMemory {
  using Scan = cub::BlockScan<int, kSelectThreads, cub::BLOCK_SCAN_WARP_SCANS>;  // the least memory

  std::uint32_t histogram[kBins][kCounters];
  typename Scan::TempStorage scan;
  std::int32_t bin, left, in_bin;
  std::int32_t ties[kSelectWarps];
};

// The `count`-th largest key, how many keys of its value are among the `count` largest, and how many there
// are.
struct TopKCut {
  std::uint32_t key;
  std::int32_t ties, all_ties;
};

// Bins from the top: the one in which the `count`-th key lies, how many of its keys are wanted, and its size.
__device__ inline void find_bin(TopKMemory& memory, int count) {
  int size[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto* counters =
        reinterpret_cast<const uint4*>(memory.histogram[kBins - 1 - (2 * static_cast<int>(threadIdx.x) + i)]);
    const uint4 a = counters[0], b = counters[1];
    size[i] = static_cast<int>(a.x + a.y + a.z + a.w + b.x + b.y + b.z + b.w);
  }
  static_assert(kBins == 2 * kSelectThreads && kCounters == 8);
  int before;
  TopKMemory::Scan(memory.scan).ExclusiveSum(size[0] + size[1], before);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (before < count && count <= before + size[i]) {
      memory.bin = kBins - 1 - (2 * static_cast<int>(threadIdx.x) + i);
      memory.left = count - before;
      memory.in_bin = size[i];
    }
    before += size[i];
  }
  __syncthreads();
}

// Of the keys key_at(begin .. size - 1) the `count` largest are wanted, 0 < count <= size - begin.
template <class KeyAt>
__device__ TopKCut find_cut(const KeyAt& key_at, int begin, int size, int count, TopKMemory& memory) {
  std::uint32_t prefix = 0;
  int shift = 32;
#pragma unroll 1
  for (const int digit : {11, 11, 10}) {
    const std::uint32_t fixed = shift == 32 ? 0 : ~std::uint32_t{0} << shift;
    shift -= digit;
    const std::uint32_t mask = (1u << digit) - 1;
    auto* words = reinterpret_cast<uint4*>(memory.histogram);
    for (int i = threadIdx.x; i < kBins * kCounters / 4; i += kSelectThreads) words[i] = {};
    __syncthreads();
#pragma unroll 8
    for (int i = begin + static_cast<int>(threadIdx.x); i < size; i += kSelectThreads) {
      const std::uint32_t key = key_at(i);
      if (((key ^ prefix) & fixed) == 0)
        atomicAdd(&memory.histogram[key >> shift & mask][threadIdx.x % kCounters], 1u);
    }
    __syncthreads();
    find_bin(memory, count);
    prefix |= static_cast<std::uint32_t>(memory.bin) << shift;
    count = memory.left;
  }
  return {prefix, count, memory.in_bin};
}

// Bits of the members, all words of a row of [sparse::member_words(size)].
__device__ inline void top_k_bits(const float* values, int size, int count, int forced,
                                  std::uint32_t* members, TopKMemory& memory) {
  count = base::min(count, size);
  forced = base::min(forced, count);
  const int num_words = static_cast<int>(sparse::member_words(size));
  if (count == forced) {
    for (int w = threadIdx.x; w < num_words; w += kSelectThreads)
      members[w] = sparse::bits_below(count - 32 * w);
    return;
  }
  const auto key_of = [&](int i) { return base::ordered(__float_as_uint(values[i])); };
  const TopKCut cut = find_cut(key_of, forced, size, count - forced, memory);

  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int warp_words = base::divide_up(num_words, kSelectWarps);
  const int begin = warp * warp_words, end = base::min(begin + warp_words, num_words);
  const auto key_at = [&](int i) { return i < size ? key_of(i) : 0u; };
  const auto is_tie = [&](int i, std::uint32_t key) { return i >= forced && i < size && key == cut.key; };

  // Ties go to the smaller index: each warp needs to know how many lie before its words.
  int ties_before = 0;
  if (cut.ties < cut.all_ties) {
    int ties = 0;
#pragma unroll 4
    for (int w = begin; w < end; ++w) {
      const int i = 32 * w + lane;
      ties += is_tie(i, key_at(i));
    }
    ties = __reduce_add_sync(minference::cuda::kAllLanes, ties);
    if (lane == 0) memory.ties[warp] = ties;
    __syncthreads();
    for (int w = 0; w < warp; ++w) ties_before += memory.ties[w];
  }
#pragma unroll 4
  for (int w = begin; w < end; ++w) {
    const int i = 32 * w + lane;
    const std::uint32_t key = key_at(i);
    const bool tie = is_tie(i, key);
    const std::uint32_t ties = __ballot_sync(minference::cuda::kAllLanes, tie);
    const int rank = ties_before + __popc(ties & sparse::bits_below(lane));
    const bool member = i < size && (i < forced || key > cut.key || (tie && rank < cut.ties));
    const std::uint32_t word = __ballot_sync(minference::cuda::kAllLanes, member);
    if (lane == 0) members[w] = word;
    ties_before += __popc(ties);
  }
}

}  // namespace minference::kernels::cuda
