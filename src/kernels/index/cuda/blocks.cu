#include <cub/block/block_scan.cuh>

#include "base/arithmetic.h"
#include "base/ordered.h"
#include "cuda/block.cuh"
#include "cuda/error.h"
#include "kernels/index/cuda/blocks_cuda.h"
#include "sparse/block_lists.h"

namespace minference::kernels::cuda {

namespace {

using minference::cuda::block_sum;
using minference::cuda::check;
using minference::cuda::kAllLanes;
using minference::cuda::Stream;
using sparse::BlockList;

constexpr int kThreads = 256;
constexpr int kSums = 8;  // running sums of a product, as on the CPU
constexpr int kMaxDim = 256;
using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

struct BlocksTask {
  std::int32_t head, top_k;  // of a leader
};

// Passed by value, so that a captured graph keeps them.
struct BlocksTasks {
  BlocksTask at[kMaxIndexedHeads];
  std::int16_t next[kMaxIndexedHeads];  // of a head, the next that shares its lists, or -1
};

struct BlocksArguments {
  std::int64_t q_len, kv_len;
  std::int32_t group;  // query heads a KV head
  std::int32_t dim;
  const float* pooled_query;
  const float* pooled_key;
  std::int32_t* row_offsets;
  std::int32_t* key_blocks;
  std::int32_t block_capacity;
};

// The CPU's product, bit for bit, by each eight neighbouring lanes: a running sum a lane, then their sum in order.
__device__ float dot(const float* query, const float* key, int dim) {
  float own = 0;
  for (int i = static_cast<int>(threadIdx.x) % kSums; i < dim; i += kSums)
    own = __fadd_rn(own, __fmul_rn(query[i], key[i]));
  float sum = 0;
#pragma unroll
  for (int lane = 0; lane < kSums; ++lane) sum = __fadd_rn(sum, __shfl_sync(kAllLanes, own, lane, kSums));
  return sum;
}

// Of keys[begin .. end), the largest key that at least `wanted` reach; 0 < wanted <= end - begin.
__device__ std::uint32_t find_cut(const std::uint32_t* keys, int begin, int end, int wanted) {
  std::uint32_t cut = 0;
#pragma unroll 1
  for (int bit = 31; bit >= 0; --bit) {
    const std::uint32_t trial = cut | 1u << bit;
    int reach = 0;
    for (int j = begin + static_cast<int>(threadIdx.x); j < end; j += kThreads) reach += keys[j] >= trial;
    if (block_sum<kThreads>(reach) >= wanted) cut = trial;
  }
  return cut;
}

// One CTA a row block and leader of heads.
__global__ void __launch_bounds__(kThreads) blocks_kernel(const __grid_constant__ BlocksArguments arguments,
                                                          const __grid_constant__ BlocksTasks tasks) {
  extern __shared__ std::uint32_t keys[];  // of the candidates' scores, in their order
  __shared__ float query[kMaxDim];
  __shared__ typename Scan::TempStorage scan;
  const BlocksTask task = tasks.at[blockIdx.y];
  const std::int64_t q_len = arguments.q_len, kv_len = arguments.kv_len, head = task.head;
  const int row_block = static_cast<int>(blockIdx.x), row_blocks = static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x), dim = arguments.dim;
  const BlockList list = BlockList::of(q_len, kv_len, row_block, task.top_k);

  int before = 0;
  for (int b = thread; b < row_block; b += kThreads)
    before += BlockList::of(q_len, kv_len, b, task.top_k).kept;
  before = block_sum<kThreads>(before);
  for (std::int64_t h = head; thread == 0 && h >= 0; h = tasks.next[h]) {
    std::int32_t* row_offsets = arguments.row_offsets + h * (row_blocks + 1);
    row_offsets[row_block] = before;
    if (row_block + 1 == row_blocks) row_offsets[row_blocks] = before + list.kept;
  }

  const std::int64_t key_blocks = base::divide_up(kv_len, sparse::kKeyTile);
  const float* pooled_key = arguments.pooled_key + head / arguments.group * key_blocks * dim;
  for (int d = thread; d < dim; d += kThreads)
    query[d] = arguments.pooled_query[(head * row_blocks + row_block) * dim + d];
  __syncthreads();
  // Blocks [1, diagonal_begin) compete. Whole warps take part in a product.
  const int free_end = list.diagonal_begin, wanted = list.kept - list.forced;
  constexpr int kProducts = kThreads / kSums;
  for (int begin = 1; wanted > 0 && begin < free_end; begin += kProducts) {
    const int j = begin + thread / kSums;
    const float score =
        dot(query, pooled_key + static_cast<std::int64_t>(base::min(j, free_end - 1)) * dim, dim);
    // NaN has no place in an order; it comes last.
    if (thread % kSums == 0 && j < free_end)
      keys[j] = base::ordered(__float_as_uint(isnan(score) ? -INFINITY : score));
  }
  __syncthreads();

  std::uint32_t cut = 0;
  int ties_wanted = 0;
  if (wanted > 0) {
    cut = find_cut(keys, 1, free_end, wanted);
    int above = 0;
    for (int j = 1 + thread; j < free_end; j += kThreads) above += keys[j] > cut;
    ties_wanted = wanted - block_sum<kThreads>(above);
  }

  int ties_before = 0, listed = 0;
  for (int begin = 0; begin < list.candidates; begin += kThreads) {
    const int j = begin + thread;
    const bool present = j < list.candidates, forced = present && list.is_forced(j);
    const bool competes = wanted > 0 && present && !forced;
    const bool tie = competes && keys[j] == cut;
    int rank, ties, at, kept_here;
    Scan(scan).ExclusiveSum(static_cast<int>(tie), rank, ties);
    __syncthreads();
    // Ties go to the smaller block.
    const bool kept = forced || (competes && keys[j] > cut) || (tie && ties_before + rank < ties_wanted);
    Scan(scan).ExclusiveSum(static_cast<int>(kept), at, kept_here);
    __syncthreads();
    for (std::int64_t h = head; kept && h >= 0; h = tasks.next[h])
      arguments.key_blocks[h * arguments.block_capacity + before + listed + at] = j;
    ties_before += ties;
    listed += kept_here;
  }
}

}  // namespace

void index_blocks(const DeviceBlocksCall& call, Stream stream) {
  BlocksTasks tasks;
  int num_tasks = 0;
  for (std::size_t h = 0; h < call.heads.size(); ++h) {
    const IndexPlan& plan = call.heads[h];
    const auto head = static_cast<std::int32_t>(h);
    tasks.next[h] = static_cast<std::int16_t>(plan.next);
    if (plan.form == sparse::IndexForm::blocks && plan.leader == head)
      tasks.at[num_tasks++] = {head, plan.top_k};
  }
  if (num_tasks == 0) return;
  const BlocksArguments arguments{.q_len = call.q_len,
                                  .kv_len = call.kv_len,
                                  .group = static_cast<std::int32_t>(call.num_heads / call.num_kv_heads),
                                  .dim = static_cast<std::int32_t>(call.dim),
                                  .pooled_query = call.pooled_query,
                                  .pooled_key = call.pooled_key,
                                  .row_offsets = call.row_offsets,
                                  .key_blocks = call.key_blocks,
                                  .block_capacity = call.block_capacity};
  const auto blocks = [](std::int64_t rows) {
    return static_cast<unsigned>(base::divide_up(rows, sparse::kRowBlock));
  };
  const auto shared_bytes = static_cast<int>(blocks(call.kv_len) * sizeof(std::uint32_t));
  check(cudaFuncSetAttribute(blocks_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "reserving shared memory");
  blocks_kernel<<<dim3(blocks(call.q_len), static_cast<unsigned>(num_tasks)), kThreads, shared_bytes,
                  stream>>>(arguments, tasks);
  check(cudaGetLastError(), "launching the index of blocks");
}

}  // namespace minference::kernels::cuda
