#include <cub/block/block_scan.cuh>

#include "base/arithmetic.h"
#include "base/error.h"
#include "cuda/block.cuh"
#include "cuda/error.h"
#include "kernels/index/cuda/index_cuda.h"
#include "sparse/cover_scan.h"
#include "sparse/member_bits.h"
#include "sparse/relative_count.h"

namespace minference::kernels::cuda {

namespace {

using minference::cuda::check;
using minference::cuda::kAllLanes;
using minference::cuda::Stream;
using sparse::CoverState;
using sparse::CoverWord;
using sparse::DeviceHead;
using sparse::IndexForm;
using sparse::kCoverStates;
using sparse::kNoTile;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
using Scan = cub::BlockScan<int, kThreads>;

// Passed by value, so that a captured graph keeps them.
struct IndexPlans {
  IndexPlan at[kMaxIndexedHeads];
};

struct IndexArguments {
  std::int64_t q_len, kv_len;
  const std::uint32_t* columns;
  const std::uint32_t* offsets;
  IndexCosts costs;
  double dense_cost;
  std::int64_t all_pairs;
  DeviceHead* out_heads;
  std::int32_t* out_tiles;
  std::int32_t* out_columns;
  std::int32_t tile_capacity, column_capacity;
  std::int32_t* out_last_dense_rows;
  std::int64_t* out_pairs;
};

// The members of a bitmap, ascending, as far as they fit; returns how many there are.
__device__ int list_bits(const std::uint32_t* words, int num_words, std::int32_t* members, int capacity,
                         typename Scan::TempStorage& scan) {
  int listed = 0;
  for (int begin = 0; begin < num_words; begin += kThreads) {
    const int w = begin + static_cast<int>(threadIdx.x);
    std::uint32_t word = w < num_words ? words[w] : 0u;
    int at, all;
    Scan(scan).ExclusiveSum(__popc(word), at, all);
    __syncthreads();
    for (at += listed; word != 0; word &= word - 1, ++at)
      if (at < capacity) members[at] = 32 * w + __ffs(static_cast<int>(word)) - 1;
    listed += all;
  }
  return listed;
}

struct CoverMemory {
  std::uint8_t exit_state[kWarps][kCoverStates];  // of each warp's stretch, from each state before it
  std::int32_t tiles[kWarps][kCoverStates];       // that begin in the stretch
  CoverState entry_state[kWarps];
  std::int32_t first_tile[kWarps];
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
    const int stretch = base::divide_up(num_words, kWarps);
    begin_ = base::min(warp() * stretch, num_words);
    end_ = base::min(begin_ + stretch, num_words);
  }

  // Tile starts, descending, as far as they fit; returns how many there are.
  __device__ int list_tiles(std::int32_t* tiles, int capacity) {
    walk_from_every_state();
    __syncthreads();
    if (threadIdx.x == 0) put_together();
    __syncthreads();
    walk_from(memory_.entry_state[warp()], memory_.first_tile[warp()], tiles, capacity);
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
    const int first = here == 0 ? kNoTile : __ffsll(static_cast<long long>(here)) - 1;
    return (last_before + 1) << 8 | first;
  }
  static __device__ CoverWord unpack(int packed) { return {(packed >> 8) - 1, packed & 255}; }

  __device__ void walk_from_every_state() {
    // Lane l walks from states l and l + 32; all of them from kNoTile.
    CoverState state[3] = {lane(), lane() + 32, kNoTile};
    int tiles[3] = {};
    for (int begin = begin_; begin < end_; begin += 32) {
      const int packed = packed_word(begin);
      for (int i = 0; i < base::min(32, end_ - begin); ++i) {
        const CoverWord word = unpack(__shfl_sync(kAllLanes, packed, i));
#pragma unroll
        for (int s = 0; s < 3; ++s) {
          state[s] = word.next(state[s]);
          tiles[s] += state[s] != kNoTile;
        }
      }
    }
#pragma unroll
    for (int s = 0; s < 3; ++s) {
      const int entry = s < 2 ? lane() + 32 * s : kNoTile;
      if (s == 2 && lane() > 0) break;
      memory_.exit_state[warp()][entry] = static_cast<std::uint8_t>(state[s]);
      memory_.tiles[warp()][entry] = tiles[s];
    }
  }

  __device__ void put_together() {
    CoverState state = kNoTile;
    int tiles = 0;
    for (int w = 0; w < kWarps; ++w) {
      memory_.entry_state[w] = state;
      memory_.first_tile[w] = tiles;
      tiles += memory_.tiles[w][state];
      state = memory_.exit_state[w][state];
    }
    memory_.num_tiles = tiles;
  }

  __device__ void walk_from(CoverState state, int next_tile, std::int32_t* tiles, int capacity) const {
    for (int begin = begin_; begin < end_; begin += 32) {
      const int packed = packed_word(begin);
      CoverState own = kNoTile;  // behind word begin + lane
      for (int i = 0; i < base::min(32, end_ - begin); ++i) {
        state = unpack(__shfl_sync(kAllLanes, packed, i)).next(state);
        if (i == lane()) own = state;
      }
      const std::uint32_t begins = __ballot_sync(kAllLanes, own != kNoTile);
      const int at = next_tile + __popc(begins & sparse::bits_below(lane()));
      if (own != kNoTile && at < capacity) tiles[at] = -(64 * (begin + lane()) + own);
      next_tile += __popc(begins);
    }
  }

  const std::uint32_t* offsets_;
  int num_bits_words_;
  int begin_, end_;  // words of this warp's stretch
  CoverMemory& memory_;
};

struct Counted {
  double cost;
  std::int64_t pairs;
};

__device__ Counted count(const IndexArguments& arguments, const IndexPlan& plan, const std::int32_t* tiles,
                         int num_tiles, const std::int32_t* columns, int num_columns) {
  const sparse::RelativeCounter counter(arguments.q_len, arguments.kv_len, true,
                                        sparse::first_dense_row(arguments.q_len, plan.last_dense_rows), tiles,
                                        num_tiles);
  std::int64_t listed_tiles = 0, listed_columns = 0, pairs = 0;
  for (int i = threadIdx.x; i < num_tiles; i += kThreads) {
    listed_tiles += counter.slices_with_tile(tiles[i]);
    pairs += counter.pairs_of_tile(tiles[i]);
  }
  for (int i = threadIdx.x; i < num_columns; i += kThreads) {
    listed_columns += counter.slices_with_column(columns[i]);
    pairs += counter.pairs_of_column(columns[i]);
  }
  using minference::cuda::block_sum;
  listed_tiles = block_sum<kThreads>(listed_tiles);
  listed_columns = block_sum<kThreads>(listed_columns);
  pairs = block_sum<kThreads>(pairs);
  const IndexCosts& costs = arguments.costs;
  return {static_cast<double>(listed_tiles) * costs.tile +
              static_cast<double>(listed_columns) * costs.column +
              static_cast<double>(counter.row_slices()) * costs.slice + plan.dense_rows_cost,
          pairs + plan.pairs};
}

// One CTA a head.
__global__ void __launch_bounds__(kThreads)
    index_kernel(const __grid_constant__ IndexArguments arguments, const __grid_constant__ IndexPlans plans) {
  __shared__ typename Scan::TempStorage scan;
  __shared__ CoverMemory cover;
  const int h = static_cast<int>(blockIdx.x);
  const IndexPlan& plan = plans.at[h];
  DeviceHead head;
  std::int64_t pairs = plan.pairs;
  if (plan.form == IndexForm::relative) {
    const int num_words = static_cast<int>(sparse::member_words(arguments.kv_len));
    const std::int64_t row = static_cast<std::int64_t>(plan.leader) * num_words;
    std::int32_t* columns = arguments.out_columns + static_cast<std::int64_t>(h) * arguments.column_capacity;
    std::int32_t* tiles = arguments.out_tiles + static_cast<std::int64_t>(h) * arguments.tile_capacity;
    const int num_columns =
        list_bits(arguments.columns + row, num_words, columns, arguments.column_capacity, scan);
    const int num_tiles =
        Cover(arguments.offsets + row, arguments.kv_len, cover).list_tiles(tiles, arguments.tile_capacity);
    __syncthreads();
    pairs = arguments.all_pairs;
    // Uniform in the CTA.
    if (num_columns <= arguments.column_capacity && num_tiles <= arguments.tile_capacity) {
      const Counted counted = count(arguments, plan, tiles, num_tiles, columns, num_columns);
      if (counted.cost < arguments.dense_cost) {
        head = {IndexForm::relative, num_tiles, num_columns, 0, 0};
        pairs = counted.pairs;
      }
    }
  } else {
    head = {plan.form, 0, 0, plan.sink, plan.local};
  }
  if (threadIdx.x > 0) return;
  arguments.out_heads[h] = head;
  if (arguments.out_last_dense_rows != nullptr)
    arguments.out_last_dense_rows[h] = head.form == IndexForm::all ? 0 : plan.last_dense_rows;
  if (arguments.out_pairs != nullptr) arguments.out_pairs[h] = pairs;
}

__global__ void clear_kernel(std::uint32_t* words, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) words[i] = 0;
}

__global__ void mark_kernel(DeviceMembers lists, std::int64_t kv_len, std::uint32_t* bitmaps) {
  const int h = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= (lists.counts == nullptr ? lists.capacity : lists.counts[h])) return;
  const std::int32_t member = lists.members[static_cast<std::int64_t>(h) * lists.capacity + i];
  if (member < 0 || member >= kv_len) return;
  atomicOr(bitmaps + h * sparse::member_words(kv_len) + member / 32, 1u << member % 32);
}

__global__ void __launch_bounds__(kThreads)
    list_kernel(const std::uint32_t* bitmaps, std::int64_t kv_len, std::int32_t* members, int capacity,
                std::int32_t* counts) {
  __shared__ typename Scan::TempStorage scan;
  const std::int64_t h = blockIdx.x, num_words = sparse::member_words(kv_len);
  const int count =
      list_bits(bitmaps + h * num_words, static_cast<int>(num_words), members + h * capacity, capacity, scan);
  if (threadIdx.x == 0) counts[h] = count;
}

}  // namespace

void build_index(const DeviceIndexCall& call, Stream stream) {
  base::require(std::ssize(call.heads) <= kMaxIndexedHeads, "heads", "must be at most 128", call.heads.size(),
                base::ErrorCode::unsupported);
  IndexPlans plans;
  std::copy(call.heads.begin(), call.heads.end(), plans.at);
  const IndexArguments arguments{.q_len = call.q_len,
                                 .kv_len = call.kv_len,
                                 .columns = call.columns,
                                 .offsets = call.offsets,
                                 .costs = call.costs,
                                 .dense_cost = call.dense_cost,
                                 .all_pairs = call.all_pairs,
                                 .out_heads = call.out_heads,
                                 .out_tiles = call.out_tiles,
                                 .out_columns = call.out_columns,
                                 .tile_capacity = call.tile_capacity,
                                 .column_capacity = call.column_capacity,
                                 .out_last_dense_rows = call.out_last_dense_rows,
                                 .out_pairs = call.out_pairs};
  index_kernel<<<static_cast<unsigned>(call.heads.size()), kThreads, 0, stream>>>(arguments, plans);
  check(cudaGetLastError(), "launching the index");
}

void mark_members(const DeviceMembers& lists, std::int64_t num_heads, std::int64_t kv_len,
                  std::uint32_t* bitmaps, Stream stream) {
  const std::int64_t words = num_heads * sparse::member_words(kv_len);
  if (words == 0) return;
  clear_kernel<<<static_cast<unsigned>(base::divide_up<std::int64_t>(words, kThreads)), kThreads, 0,
                 stream>>>(bitmaps, words);
  check(cudaGetLastError(), "launching the clearing of members");
  if (lists.capacity == 0) return;
  const dim3 grid(base::divide_up(lists.capacity, kThreads), static_cast<unsigned>(num_heads));
  mark_kernel<<<grid, kThreads, 0, stream>>>(lists, kv_len, bitmaps);
  check(cudaGetLastError(), "launching the marking of members");
}

void list_members(const std::uint32_t* bitmaps, std::int64_t num_heads, std::int64_t kv_len,
                  std::int32_t* members, std::int32_t capacity, std::int32_t* counts, Stream stream) {
  list_kernel<<<static_cast<unsigned>(num_heads), kThreads, 0, stream>>>(bitmaps, kv_len, members, capacity,
                                                                         counts);
  check(cudaGetLastError(), "launching the listing of members");
}

}  // namespace minference::kernels::cuda
