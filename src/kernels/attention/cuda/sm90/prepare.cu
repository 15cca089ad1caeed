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
#include "kernels/attention/cuda/sm90/count_below.cuh"
#include "kernels/attention/cuda/sm90/plan.h"

namespace minference::kernels::cuda::sm90 {

namespace {

constexpr int kPrepareThreads = 1024;
constexpr int kGatherThreads = 256;

// The list of entries behind those of the heads is the dense one: entry 0 lies behind every row, so that it
// computes nothing, and entries 1, 2, .. start 64, 0, -64, .. keys from the item's first row. Without the causal rule it
// is the same for all items: entries 1, 2, .. lead from the last key down to key 0.
constexpr int kNothing = 0;
constexpr int kDense = 1;

// The tiles of a call without the causal rule. An even number, so that the last keys and whatever lies behind them are
// in the first step, which is masked.
__device__ int all_tiles(const Plan& plan) {
  return base::round_up(base::divide_up(plan.kv_len, kTileKeys), 2);
}

__device__ Entry dense_entry(const Plan& plan, int e) {
  return plan.causal != 0 ? Entry::relative(kItemRows - kTileKeys * e, 3)
                          : Entry::absolute(kTileKeys * (all_tiles(plan) - e), 3);
}

__device__ int entries_at_or_before_key_zero(const Entry* entries, int count, int item_position) {
  int low = 0, high = count;  // entries [0, low) reach key 0 or beyond
  while (low < high) {
    const int middle = (low + high) / 2;
    if (entries[middle].start(item_position) + kTileKeys > 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

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

// A window's tiles: a run down from `first`, counted from the item's first row, then those of the sink.
struct WindowTiles {
  int first, run, sink;

  static __device__ WindowTiles of(const DeviceHead& head, const Plan& plan) {
    const int ahead = plan.causal != 0 ? 1 : (kItemRows - 2 + head.local) / kTileKeys;
    return {ahead * kTileKeys, ahead + 1 + (kTileKeys - 2 + head.local) / kTileKeys,
            (head.sink + kTileKeys - 1) / kTileKeys};
  }

  __device__ void list(const HeadLists& lists, const Plan& plan) const {
    for (int e = threadIdx.x; e < min(run + sink, plan.entry_capacity); e += kPrepareThreads) {
      lists.entries[e] = e < run ? Entry::relative(first - kTileKeys * e, 3)
                                 : Entry::absolute(kTileKeys * (sink - 1 - (e - run)), 3);
    }
  }
};

__device__ Item dense_item(const Plan& plan, int item_position) {
  const int dense_list = plan.schedule.num_kv_heads * plan.schedule.group * plan.entry_capacity;
  Item item = {};
  item.entries_at = dense_list + kDense;
  item.order_at[0] = item.order_at[1] = 2 * dense_list;
  // Down to the tile that holds key 0, and to an even number: the last one may lie before it.
  item.num_entries =
      plan.causal != 0 ? ((item_position + kItemRows - 1) / kTileKeys + 2) / 2 * 2 : all_tiles(plan);
  item.tiles[0] = item.tiles[1] = item.num_entries;
  item.first[0][1] = item.first[1][1] = 1;
  item.local = -1;
  // Entries start 64, 0, -64, .. from the item's first row; step 0 holds both halves' diagonals.
  const int plain = plan.causal != 0 ? item_position / kTileKeys + 2 : item.num_entries;
  item.plain_steps[0] = item.plain_steps[1] = plain / 2;
  return item;
}

__device__ Item window_item(const DeviceHead& head, int list, const WindowTiles& window, const Plan& plan,
                            int item_position) {
  Item item = dense_item(plan, item_position);
  item.local = head.local;
  item.sink = head.sink;
  const int first = item_position + window.first;
  const bool meets_sink = first - kTileKeys * (window.run - 1) < window.sink * kTileKeys;
  if (!meets_sink) {
    // Those that begin behind the last key are left out.
    const int left_out = plan.causal != 0 ? 0 : max(first + kTileKeys - plan.kv_len, 0) / kTileKeys;
    item.entries_at = list + left_out;
    item.num_entries = window.run + window.sink - left_out;
  } else if (plan.causal == 0) {  // one run down to key 0
    const int last_key = max(item_position + kItemRows - 2 + head.local, head.sink - 1);
    const int last_tile = min(last_key, plan.kv_len - 1) / kTileKeys;
    item.entries_at += item.num_entries - 1 - last_tile;
    item.num_entries = last_tile + 1;
  }
  item.tiles[0] = item.tiles[1] = item.num_entries;
  // Tile e is seen whole by the upper half, whose last row is the furthest, while 64 e <= local - 64. Without the causal
  // rule up to three tiles reach behind some row's window: all steps are masked.
  const int plain = plan.causal != 0 ? min(item.plain_steps[0], head.local / kTileKeys / 2) : 0;
  item.plain_steps[0] = item.plain_steps[1] = plain;
  return item;
}

__device__ Item relative_item(const HeadLists& lists, const DeviceHead& head, int list, int num_entries,
                              const Plan& plan, int item_position) {
  Item item = {};
  item.entries_at = list;
  item.order_at[0] = 2 * list;
  item.order_at[1] = 2 * list + plan.entry_capacity;
  item.local = -1;
  item.num_columns = count_below(lists.columns, head.num_columns, item_position + kItemRows);
  item.num_entries = entries_at_or_before_key_zero(lists.entries, num_entries, item_position);
  if (item.num_columns == 0) {
    // Each half takes one step at least; a tile that lies before key 0 computes nothing.
    if (head.num_tiles > 0) {
      item.num_entries = max(item.num_entries, 2);
    } else {
      item = dense_item(plan, item_position);
      item.entries_at += kNothing - kDense;
      item.num_entries = item.tiles[0] = item.tiles[1] = 1;
      item.plain_steps[0] = item.plain_steps[1] = 0;
      return item;
    }
  }
  for (int half = 0; half < 2; ++half) {
    item.tiles[half] = count_below(lists.order[half], head.num_tiles, item.num_entries);
    for (int j = 0; j < min(2, head.num_tiles); ++j)
      item.first[half][j] = static_cast<std::int16_t>(lists.order[half][j]);
    // Of a half's tiles only the first reaches its rows, and only the last may begin before key 0.
    const int tiles = item.tiles[half];
    const bool clipped = tiles > 0 && item_position + half * kHalfRows + lists.tiles[tiles - 1] < 0;
    item.plain_steps[half] = (tiles - clipped) / 2;
  }
  return item;
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
      lists.order[0][e] = e;
    }
    if (threadIdx.x == 0) {
      plan.items[plan.schedule.num_items()] = {.head = -1};
      *plan.next_item = 0;
    }
    return;
  }

  DeviceHead head = index.heads != nullptr ? index.heads[h] : DeviceHead{};
  head.local = min(head.local, plan.kv_len);
  head.sink = min(head.sink, plan.kv_len);
  const WindowTiles window = WindowTiles::of(head, plan);
  int num_entries = 0;
  if (head.form == sparse::IndexForm::blocks) return;  // prepare_blocks()
  if (head.form == sparse::IndexForm::relative) {
    list_relative(lists, head.num_tiles, plan);
    num_entries = head.num_tiles > 0 ? lists.order[0][head.num_tiles - 1] + 1 : 0;
  } else if (head.form == sparse::IndexForm::window) {
    window.list(lists, plan);
  }
  for (int pair = threadIdx.x; pair < plan.schedule.items_per_head; pair += kPrepareThreads) {
    const int first_row = pair * kItemRows;
    const int position = plan.kv_len - plan.q_len + first_row;
    Item item;
    if (head.form == sparse::IndexForm::relative) {
      item = relative_item(lists, head, list, num_entries, plan, position);
    } else if (head.form == sparse::IndexForm::window) {
      item = window_item(head, list, window, plan, position);
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
