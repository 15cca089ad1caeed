#pragma once

#include "base/arithmetic.h"
#include "cuda/math.cuh"
#include "sparse/cover_scan.h"
#include "sparse/member_bits.h"

namespace minference::kernels::cuda {

inline constexpr int kCoverThreads = 1024, kCoverWarps = kCoverThreads / 32;

struct CoverMemory {
  std::uint8_t exit_state[kCoverWarps]
                         [sparse::kCoverStates];          // of each warp's stretch, from each state before it
  std::int32_t tiles[kCoverWarps][sparse::kCoverStates];  // that begin in the stretch
  sparse::CoverState entry_state[kCoverWarps];
  std::int32_t first_tile[kCoverWarps];
  std::int32_t num_tiles;
};

// sparse/cover_scan.h's walk: each warp takes a stretch of words from every state that it may find there; once
// the stretches are put together, it walks again from the one it does find.
class Cover {
 public:
  __device__ Cover(const std::uint32_t* offsets, std::int64_t kv_len, CoverMemory& memory)
      : offsets_(offsets),
        num_bits_words_(static_cast<int>(sparse::member_words(kv_len) / 2)),
        memory_(memory) {
    const int num_words = static_cast<int>(sparse::cover_words(kv_len));
    const int stretch = base::divide_up(num_words, kCoverWarps);
    begin_ = base::min(warp() * stretch, num_words);
    end_ = base::min(begin_ + stretch, num_words);
  }

  // Tile starts, descending, as far as they fit, and sparse::TileTable's entry of each word; returns how many
  // tiles there are.
  __device__ int list_tiles(std::int32_t* tiles, int capacity, std::uint32_t* table) {
    walk_from_every_state();
    __syncthreads();
    if (threadIdx.x == 0) put_together();
    __syncthreads();
    walk_from(memory_.entry_state[warp()], memory_.first_tile[warp()], tiles, capacity, table);
    return memory_.num_tiles;
  }

 private:
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  __device__ std::uint64_t bits(int word) const {
    if (word < 0 || word >= num_bits_words_) return 0;
    return reinterpret_cast<const std::uint64_t*>(offsets_)[word];
  }

  // Word `begin + lane` in each lane, packed for broadcasting.
  __device__ int packed_word(int begin) const {
    const int word = begin + lane();
    const std::uint64_t before = bits(word - 1), here = bits(word);
    const int last_before = 63 - __clzll(static_cast<long long>(before));
    const int first = here == 0 ? sparse::kNoTile : __ffsll(static_cast<long long>(here)) - 1;
    return (last_before + 1) << 8 | first;
  }
  static __device__ sparse::CoverWord unpack(int packed) { return {(packed >> 8) - 1, packed & 255}; }

  __device__ void walk_from_every_state() {
    // Lane l walks from states l and l + 32; all of them from sparse::kNoTile.
    sparse::CoverState state[3] = {lane(), lane() + 32, sparse::kNoTile};
    int tiles[3] = {};
    for (int begin = begin_; begin < end_; begin += 32) {
      const int packed = packed_word(begin);
      for (int i = 0; i < base::min(32, end_ - begin); ++i) {
        const sparse::CoverWord word = unpack(__shfl_sync(minference::cuda::kAllLanes, packed, i));
#pragma unroll
        for (int s = 0; s < 3; ++s) {
          state[s] = word.next(state[s]);
          tiles[s] += state[s] != sparse::kNoTile;
        }
      }
    }
#pragma unroll
    for (int s = 0; s < 3; ++s) {
      const int entry = s < 2 ? lane() + 32 * s : sparse::kNoTile;
      if (s == 2 && lane() > 0) break;
      memory_.exit_state[warp()][entry] = static_cast<std::uint8_t>(state[s]);
      memory_.tiles[warp()][entry] = tiles[s];
    }
  }

  __device__ void put_together() {
    sparse::CoverState state = sparse::kNoTile;
    int tiles = 0;
    for (int w = 0; w < kCoverWarps; ++w) {
      memory_.entry_state[w] = state;
      memory_.first_tile[w] = tiles;
      tiles += memory_.tiles[w][state];
      state = memory_.exit_state[w][state];
    }
    memory_.num_tiles = tiles;
  }

  __device__ void walk_from(sparse::CoverState state, int next_tile, std::int32_t* tiles, int capacity,
                            std::uint32_t* table) const {
    for (int begin = begin_; begin < end_; begin += 32) {
      const int packed = packed_word(begin);
      sparse::CoverState own = sparse::kNoTile;  // behind word begin + lane
      for (int i = 0; i < base::min(32, end_ - begin); ++i) {
        state = unpack(__shfl_sync(minference::cuda::kAllLanes, packed, i)).next(state);
        if (i == lane()) own = state;
      }
      const std::uint32_t begins = __ballot_sync(minference::cuda::kAllLanes, own != sparse::kNoTile);
      const int at = next_tile + __popc(begins & sparse::bits_below(lane()));
      const int word = begin + lane();
      if (own != sparse::kNoTile && at < capacity) tiles[at] = -(64 * word + own);
      if (word < end_) table[word] = sparse::TileTable::entry(at, own);
      next_tile += __popc(begins);
    }
  }

  const std::uint32_t* offsets_;
  int num_bits_words_;
  int begin_, end_;  // words of this warp's stretch
  CoverMemory& memory_;
};

}  // namespace minference::kernels::cuda
