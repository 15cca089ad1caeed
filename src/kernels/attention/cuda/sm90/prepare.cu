// Makes the attention kernel's plan from the index.
//
// A head's row blocks share one list of relative tiles. An item holds two row blocks, 64 apart, so the upper
// half's tile j stands 64 keys behind the lower half's; where the list has a run of adjacent tiles, that is
// the lower half's tile j - 1. In descending order the item's tiles are therefore, for each j: the upper
// half's tile j, then the lower half's tile j, except that within a run the lower half's tile j - 1 *is* the
// upper half's tile j. With breaks(j) the number of runs that end before j, the upper half's tile j is entry
// j + breaks(j), and the lower half's is the next one.
#include <cub/block/block_scan.cuh>

#include "cuda/error.h"
#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/sm90/items.h"

namespace minference::kernels::cuda::sm90 {

namespace {

constexpr int kPrepareThreads = 1024;
constexpr int kGatherThreads = 256;

struct HeadLists {
  const std::int32_t* tiles;
  const std::int32_t* columns;
  Entry* entries;
  std::int32_t* order[2];  // by half
  std::uint32_t* cover;
};

__device__ HeadLists lists_of(const DeviceIndex& index, const Plan& plan, int head) {
  const std::int64_t h = head;
  return {index.tiles + h * plan.tile_capacity,
          index.columns + h * plan.column_capacity,
          plan.entries + h * plan.entry_capacity,
          {plan.order + 2 * h * plan.entry_capacity, plan.order + (2 * h + 1) * plan.entry_capacity},
          plan.cover + h * plan.cover_words};
}

// Entries, order and cover of a relative head.
__device__ void list_relative(const HeadLists& lists, int num_tiles, const Plan& plan) {
  using Scan = cub::BlockScan<int, kPrepareThreads>;
  __shared__ typename Scan::TempStorage scan;
  for (int i = threadIdx.x; i < plan.cover_words; i += kPrepareThreads) lists.cover[i] = 0;
  __syncthreads();
  int breaks_before = 0;
  for (int begin = 0; begin < num_tiles; begin += kPrepareThreads) {
    const int j = begin + static_cast<int>(threadIdx.x);
    const bool valid = j < num_tiles;
    const int start = valid ? lists.tiles[j] : 0;
    const bool begins_run = valid && j > 0 && lists.tiles[j - 1] != start + kTileKeys;
    const bool ends_run = valid && (j + 1 == num_tiles || lists.tiles[j + 1] != start - kTileKeys);
    int breaks, breaks_here;
    Scan(scan).InclusiveSum(begins_run, breaks, breaks_here);
    __syncthreads();
    if (valid) {
      const int upper = j + breaks_before + breaks;
      lists.order[0][j] = upper + 1;
      lists.order[1][j] = upper;
      if (begins_run || j == 0) lists.entries[upper] = Entry::relative(start + kHalfRows, 2);
      lists.entries[upper + 1] = Entry::relative(start, ends_run ? 1 : 3);
      const CoverBits covered = CoverBits::of_tile(plan.kv_len, start);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        if (covered.bits[i] != 0) atomicOr(lists.cover + covered.first_word + i, covered.bits[i]);
      }
    }
    breaks_before += breaks_here;
  }
  __syncthreads();
}

// One block a head, and one for the dense list and the schedule's end.
__global__ void __launch_bounds__(kPrepareThreads) prepare_kernel(const DeviceIndex index, const Plan plan) {
  cudaTriggerProgrammaticLaunchCompletion();
  const int num_heads = plan.schedule.num_kv_heads * plan.schedule.group;
  const int h = static_cast<int>(blockIdx.x);
  const int list = h * plan.entry_capacity;
  const HeadLists lists = lists_of(index, plan, h);
  if (h == num_heads) {
    for (int e = threadIdx.x; e < plan.entry_capacity; e += kPrepareThreads) {
      lists.entries[e] = dense_entry(plan, e);
      for (int half = 0; half < 2; ++half) lists.order[half][e] = dense_order(plan, half, e);
    }
    if (threadIdx.x == 0) {
      plan.items[plan.schedule.num_items()] = {.head = -1};
      *plan.next_item = 0;
      if (plan.not_squares != nullptr) *plan.not_squares = 0;
    }
    return;
  }

  DeviceHead head = index.heads != nullptr ? index.heads[h] : DeviceHead{};
  head.local = min(head.local, plan.kv_len);
  head.sink = min(head.sink, plan.kv_len);
  if (head.form == sparse::IndexForm::blocks) return;  // prepare_blocks()
  if (head.form == sparse::IndexForm::relative) {
    list_relative(lists, head.num_tiles, plan);
  } else if (head.form == sparse::IndexForm::window) {
    const WindowTiles window = WindowTiles::of(head, plan);
    for (int e = threadIdx.x; e < min(window.count(), plan.entry_capacity); e += kPrepareThreads)
      lists.entries[e] = window.entry(plan, e);
  }
  const RelativeLists relative = {
      lists.tiles, lists.columns, lists.entries, {lists.order[0], lists.order[1]}};
  for (int pair = threadIdx.x; pair < plan.schedule.items_per_head; pair += kPrepareThreads) {
    const int first_row = pair * kItemRows;
    const int position = plan.kv_len - plan.q_len + first_row;
    Item item;
    if (head.form == sparse::IndexForm::relative) {
      item = relative_item(relative, head, list, plan, position);
    } else if (head.form == sparse::IndexForm::window) {
      item = window_item(head, list, plan, position);
    } else {
      item = dense_item(plan, position);
    }
    item.head = h;
    item.first_row = first_row;
    plan.items[plan.schedule.place(h, pair)] = item;
  }
}

// Copies 16 bytes a thread; rows behind the last column become zero, since a weight of zero does not cancel a
// NaN.
__global__ void gather_kernel(const DeviceIndex index, const Plan plan, const uint4* key, const uint4* value,
                              longlong2 key_strides, longlong2 value_strides, int row_chunks) {
  cudaTriggerProgrammaticLaunchCompletion();
  const int h = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.x * kGatherThreads + threadIdx.x);
  const int column = at / row_chunks, chunk = at % row_chunks;
  const int num_columns = index.heads[h].form == sparse::IndexForm::relative ? index.heads[h].num_columns : 0;
  if (column >= (num_columns + kTileKeys - 1) / kTileKeys * kTileKeys) return;
  uint4 key_chunk = {}, value_chunk = {};
  if (column < num_columns) {
    const std::int64_t kv_head = h / plan.schedule.group;
    const std::int64_t row = index.columns[static_cast<std::int64_t>(h) * plan.column_capacity + column];
    key_chunk = key[kv_head * key_strides.x + row * key_strides.y + chunk];
    value_chunk = value[kv_head * value_strides.x + row * value_strides.y + chunk];
  }
  const std::int64_t to =
      (static_cast<std::int64_t>(h) * plan.gathered_capacity + column) * row_chunks + chunk;
  static_cast<uint4*>(plan.gathered_key)[to] = key_chunk;
  static_cast<uint4*>(plan.gathered_value)[to] = value_chunk;
}

}  // namespace

void prepare_plan(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  using minference::cuda::check;
  const int num_heads = static_cast<int>(call.query.heads);
  prepare_kernel<<<num_heads + 1, kPrepareThreads, 0, stream>>>(call.index, plan);
  check(cudaGetLastError(), "launching the attention plan");
  if (call.index.row_offsets != nullptr) prepare_blocks(call, plan, stream);
  if (call.index.heads == nullptr || plan.gathered_capacity == 0) return;
  constexpr int kElements = sizeof(uint4) / 2;
  const int row_chunks = static_cast<int>(call.key.dim) / kElements;
  const auto strides = [](const base::InputHeads& tensor) {
    return longlong2{tensor.head_stride / kElements, tensor.row_stride / kElements};
  };
  const dim3 grid((plan.gathered_capacity * row_chunks + kGatherThreads - 1) / kGatherThreads, num_heads);
  gather_kernel<<<grid, kGatherThreads, 0, stream>>>(
      call.index, plan, static_cast<const uint4*>(call.key.data), static_cast<const uint4*>(call.value.data),
      strides(call.key), strides(call.value), row_chunks);
  check(cudaGetLastError(), "launching the gather of columns");
}

}  // namespace minference::kernels::cuda::sm90
