#include <algorithm>
#include <cub/block/block_scan.cuh>

#include "base/arena.h"
#include "base/arithmetic.h"
#include "base/error.h"
#include "cuda/block.cuh"
#include "cuda/error.h"
#include "kernels/index/cuda/cover.cuh"
#include "kernels/index/cuda/index_cuda.h"
#include "sparse/cover_scan.h"
#include "sparse/member_bits.h"
#include "sparse/relative_count.h"

namespace minference::kernels::cuda {

namespace {

using minference::cuda::check;
using minference::cuda::Stream;
using sparse::DeviceHead;
using sparse::IndexForm;

constexpr int kThreads = kCoverThreads, kCountThreads = 256;
using Scan = cub::BlockScan<int, kThreads>;

// Passed by value, so that a captured graph keeps them.
struct IndexPlans {
  IndexPlan at[kMaxIndexedHeads];
};

// Row slices of a head's tiles and of its columns, and their pairs.
struct IndexSums {
  std::int64_t tiles = 0, columns = 0, pairs = 0;
};

struct IndexCount {
  std::int32_t num_tiles, num_columns;
  std::int32_t parts;  // whose counts are in `sums`
  IndexSums sums;
};

struct IndexWorkspace {
  IndexCount* counts;    // [num_heads]
  std::uint32_t* table;  // [num_heads, sparse::cover_words(kv_len)]: entries of sparse::TileTable

  IndexWorkspace(base::Arena& arena, std::int64_t num_heads, std::int64_t kv_len)
      : counts(arena.take<IndexCount>(num_heads)),
        table(arena.take<std::uint32_t>(num_heads * sparse::cover_words(kv_len))) {}
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
  IndexWorkspace workspace;

  __device__ std::int32_t* tiles_of(int h) const { return out_tiles + std::int64_t{h} * tile_capacity; }
  __device__ std::int32_t* columns_of(int h) const { return out_columns + std::int64_t{h} * column_capacity; }
  __device__ std::uint32_t* table_of(int h) const {
    return workspace.table + h * sparse::cover_words(kv_len);
  }
};

// Two's complement: unsigned addition is the signed one.
__device__ std::int64_t add_to(std::int64_t& sum, std::int64_t x) {
  return static_cast<std::int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(&sum), static_cast<unsigned long long>(x)));
}

// Of the members of a bitmap, ascending, those of the `part`-th kThreads words, as far as all fit; returns how
// many there are up to there.
__device__ int list_bits(const std::uint32_t* words, int num_words, int part, std::int32_t* members,
                         int capacity, typename Scan::TempStorage& scan) {
  const int first = part * kThreads, w = first + static_cast<int>(threadIdx.x);
  int before = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < first; i += kThreads) before += __popc(words[i]);
  before = minference::cuda::block_sum<kThreads>(before);
  std::uint32_t word = w < num_words ? words[w] : 0u;
  int at, own;
  Scan(scan).ExclusiveSum(__popc(word), at, own);
  for (at += before; word != 0; word &= word - 1, ++at)
    if (at < capacity) members[at] = 32 * w + __ffs(static_cast<int>(word)) - 1;
  return before + own;
}

int parts_of(std::int64_t num_words) {
  return static_cast<int>(base::max<std::int64_t>(base::divide_up<std::int64_t>(num_words, kThreads), 1));
}

// Lists the members of head blockIdx.y: its tiles, or the columns of one part.
__global__ void __launch_bounds__(kThreads)
    list_index_kernel(const __grid_constant__ IndexArguments arguments,
                      const __grid_constant__ IndexPlans plans) {
  const int h = static_cast<int>(blockIdx.y);
  const IndexPlan& plan = plans.at[h];
  if (plan.form != IndexForm::relative) return;
  const int num_words = static_cast<int>(sparse::member_words(arguments.kv_len));
  const std::int64_t row = static_cast<std::int64_t>(plan.leader) * num_words;
  IndexCount& count = arguments.workspace.counts[h];
  if (blockIdx.x == 0) {
    __shared__ CoverMemory cover;
    const int num_tiles =
        Cover(arguments.offsets + row, arguments.kv_len, cover)
            .list_tiles(arguments.tiles_of(h), arguments.tile_capacity, arguments.table_of(h));
    if (threadIdx.x == 0) count.num_tiles = num_tiles, count.parts = 0, count.sums = {};
  } else {
    __shared__ typename Scan::TempStorage scan;
    const int num_columns = list_bits(arguments.columns + row, num_words, static_cast<int>(blockIdx.x) - 1,
                                      arguments.columns_of(h), arguments.column_capacity, scan);
    if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) count.num_columns = num_columns;
  }
}

// Adds a CTA's part of the lists' tiles and columns to the head's sums; integers, in any order.
__device__ void count_part(const IndexArguments& arguments, const IndexPlan& plan, int h, IndexCount& count) {
  const std::int64_t sparse_rows = sparse::first_dense_row(arguments.q_len, plan.last_dense_rows);
  const sparse::TileTable table(arguments.table_of(h), sparse::cover_words(arguments.kv_len),
                                count.num_tiles);
  const sparse::RelativeCounter counter(arguments.q_len, arguments.kv_len, true, sparse_rows, table);
  const int first = static_cast<int>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x);
  const int stride = static_cast<int>(gridDim.x) * kCountThreads;
  const std::int32_t *tiles = arguments.tiles_of(h), *columns = arguments.columns_of(h);
  IndexSums sums;
  for (int i = first; i < count.num_tiles; i += stride) {
    sums.tiles += counter.slices_with_tile(tiles[i]);
    sums.pairs += counter.pairs_of_tile(tiles[i]);
  }
  for (int i = first; i < count.num_columns; i += stride) {
    const sparse::ColumnCount column = counter.count_of_column(columns[i]);
    sums.columns += column.slices;
    sums.pairs += column.pairs;
  }
  using minference::cuda::block_sum;
  sums = {block_sum<kCountThreads>(sums.tiles), block_sum<kCountThreads>(sums.columns),
          block_sum<kCountThreads>(sums.pairs)};
  if (threadIdx.x > 0) return;
  add_to(count.sums.tiles, sums.tiles);
  add_to(count.sums.columns, sums.columns);
  add_to(count.sums.pairs, sums.pairs);
}

__device__ double cost_of(const IndexArguments& arguments, const IndexPlan& plan, const IndexSums& sums) {
  const std::int64_t sparse_rows = sparse::first_dense_row(arguments.q_len, plan.last_dense_rows);
  const IndexCosts& costs = arguments.costs;
  return static_cast<double>(sums.tiles) * costs.tile + static_cast<double>(sums.columns) * costs.column +
         static_cast<double>(base::divide_up(sparse_rows, sparse::kRowBlock)) * costs.slice +
         plan.dense_rows_cost;
}

// Counts the lists of head blockIdx.y, in parts; the last part to end decides what the head computes.
__global__ void __launch_bounds__(kCountThreads)
    count_index_kernel(const __grid_constant__ IndexArguments arguments,
                       const __grid_constant__ IndexPlans plans) {
  const int h = static_cast<int>(blockIdx.y);
  const IndexPlan& plan = plans.at[h];
  DeviceHead head{plan.form, 0, 0, plan.sink, plan.local};
  std::int64_t pairs = plan.pairs;
  if (plan.form == IndexForm::relative) {
    IndexCount& count = arguments.workspace.counts[h];
    head = {};
    pairs = arguments.all_pairs;
    // Uniform in the head's CTAs.
    const bool fits =
        count.num_columns <= arguments.column_capacity && count.num_tiles <= arguments.tile_capacity;
    if (fits) count_part(arguments, plan, h, count);
    if (threadIdx.x > 0) return;
    __threadfence();
    if (atomicAdd(&count.parts, 1) + 1 < static_cast<int>(gridDim.x)) return;
    __threadfence();
    const IndexSums sums{add_to(count.sums.tiles, 0), add_to(count.sums.columns, 0),
                         add_to(count.sums.pairs, 0)};
    if (fits && cost_of(arguments, plan, sums) < arguments.dense_cost) {
      head = {IndexForm::relative, count.num_tiles, count.num_columns, 0, 0};
      pairs = plan.pairs + sums.pairs;
    }
  } else if (blockIdx.x > 0 || threadIdx.x > 0) {
    return;
  }
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
  const std::int64_t h = blockIdx.y, num_words = sparse::member_words(kv_len);
  const int count = list_bits(bitmaps + h * num_words, static_cast<int>(num_words),
                              static_cast<int>(blockIdx.x), members + h * capacity, capacity, scan);
  if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) counts[h] = count;
}

}  // namespace

std::size_t index_workspace_bytes(std::int64_t num_heads, std::int64_t kv_len) {
  base::Arena arena(nullptr);
  IndexWorkspace(arena, num_heads, kv_len);
  return arena.used();
}

void build_index(const DeviceIndexCall& call, void* workspace, Stream stream) {
  base::require(std::ssize(call.heads) <= kMaxIndexedHeads, "heads", "must be at most 128", call.heads.size(),
                base::ErrorCode::unsupported);
  IndexPlans plans;
  std::copy(call.heads.begin(), call.heads.end(), plans.at);
  base::Arena arena(workspace);
  const auto num_heads = std::ssize(call.heads);
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
                                 .out_pairs = call.out_pairs,
                                 .workspace = IndexWorkspace(arena, num_heads, call.kv_len)};
  const bool any_lists =
      std::ranges::any_of(call.heads, [](const IndexPlan& plan) { return plan.form == IndexForm::relative; });
  const auto heads = static_cast<unsigned>(num_heads);
  if (any_lists) {
    const auto parts = static_cast<unsigned>(parts_of(sparse::member_words(call.kv_len)));
    list_index_kernel<<<dim3(1 + parts, heads), kThreads, 0, stream>>>(arguments, plans);
    check(cudaGetLastError(), "launching the listing of an index");
  }
  constexpr int kMostParts = 32, kThreadMembers = 8;
  const std::int64_t most = base::max(call.tile_capacity, call.column_capacity);
  const std::int64_t parts =
      any_lists ? base::clamp<std::int64_t>(most / (kCountThreads * kThreadMembers), 1, kMostParts) : 1;
  count_index_kernel<<<dim3(static_cast<unsigned>(parts), heads), kCountThreads, 0, stream>>>(arguments,
                                                                                              plans);
  check(cudaGetLastError(), "launching the counting of an index");
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
  const dim3 grid(static_cast<unsigned>(parts_of(sparse::member_words(kv_len))),
                  static_cast<unsigned>(num_heads));
  list_kernel<<<grid, kThreads, 0, stream>>>(bitmaps, kv_len, members, capacity, counts);
  check(cudaGetLastError(), "launching the listing of members");
}

}  // namespace minference::kernels::cuda
