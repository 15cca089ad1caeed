#pragma once

#include "kernels/select/cuda/adaptive.cuh"

// A head's members, once the cuts are known.
namespace minference::kernels::cuda {

inline constexpr int kMemberThreads = 512, kMemberWarps = kMemberThreads / 32;
inline constexpr int kWarpWords = 8, kMemberWords = kMemberWarps * kWarpWords;

// Words of columns and of offsets, kMemberWords each, by one CTA.
class AdaptiveMembers {
 public:
  __device__ explicit AdaptiveMembers(const AdaptiveHead& head) : head_(head), cuts_(*head.cuts) {}

  __device__ void write(int chunk) const {
    const int num_words = static_cast<int>(sparse::member_words(head_.length));
    const int first = chunk * kMemberWords, lane = static_cast<int>(threadIdx.x % 32);
    const int warp_first = first + static_cast<int>(threadIdx.x / 32) * kWarpWords;
    float own[kWarpWords];  // all on their way before the first is needed
#pragma unroll
    for (int i = 0; i < kWarpWords; ++i) {
      const int distance = head_.length - 1 - (32 * (warp_first + i) + lane);
      own[i] = distance >= 0 ? head_.own[distance] : -1.0f;
    }
#pragma unroll
    for (int i = 0; i < kWarpWords; ++i) {
      const int w = warp_first + i, key = 32 * w + lane;
      const std::uint32_t word =
          __ballot_sync(minference::cuda::kAllLanes, key < head_.length && keeps_column(key, own[i]));
      if (lane == 0 && w < num_words) head_.columns[w] = word;
    }
    const int w = first + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kMemberWords && w < num_words) head_.offsets[w] = offsets_in(w);
  }

 private:
  __device__ bool keeps_column(int key, float own) const {
    if (key < kForcedColumns) return true;
    const int distance = head_.length - 1 - key;
    if (own > cuts_.least_own || (own == cuts_.least_own && distance >= cuts_.least_distance)) return true;
    return cuts_.threshold > 0 && worth_of_column(own, head_.columns_per_tile) >= cuts_.threshold;
  }

  __device__ bool keeps_band(int band) const {
    return head_.band_worth[band] >= cuts_.threshold;
  }

  // A kept band's two offsets are its first one and the next band's, which cover it together.
  __device__ std::uint32_t offsets_in(int w) const {
    const int band = w / 2, last = head_.length - 1;
    std::uint32_t members = 0;
    if (w % 2 == 0) members = keeps_band(band) || (band > 0 && keeps_band(band - 1));
    if (last / 32 == w && keeps_band(band)) members |= 1u << last % 32;
    return members;
  }

  AdaptiveHead head_;
  AdaptiveCuts cuts_;
};

}  // namespace minference::kernels::cuda
