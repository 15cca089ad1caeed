// Makes the items of heads whose row blocks each have a list of key blocks: paired_lists.h has the rule.
#include "cuda/error.h"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/block_lists.cuh"

namespace minference::kernels::cuda::sm90 {

namespace {

using minference::cuda::kAllLanes;

// Walks a half's far blocks in descending or ascending order, a lane a block. Calls visit(block, is_shared, rank) with
// the block's rank among those that both halves list, or among those that this half lists alone; returns how many are
// shared.
template <class Visit>
__device__ int for_each_far_block(const KeyBlocks& own, const KeyBlocks& other, bool ascending, Visit visit) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::uint32_t before_lane = (1u << lane) - 1;
  int shared_before = 0;
  for (int begin = 0; begin < own.far; begin += kLanes) {
    const int n = begin + lane;
    const bool valid = n < own.far;
    const std::int32_t block = valid ? own.blocks[ascending ? n : own.far - 1 - n] : 0;
    const bool is_shared = valid && other.holds(block);
    const std::uint32_t shared = __ballot_sync(kAllLanes, is_shared);
    const int shared_rank = shared_before + __popc(shared & before_lane);
    if (valid) visit(block, is_shared, is_shared ? shared_rank : n - shared_rank);
    shared_before += __popc(shared);
  }
  return shared_before;
}

struct ItemLists {
  Entry* entries;
  std::int32_t* order[2];
};

// By one lane: what does not depend on the far blocks.
template <class Lists>
__device__ void list_few(const Lists& lists, std::int32_t first_near, std::int32_t blank_start,
                         const ItemLists& out) {
  for (int half = 0; half < 2; ++half) {
    int place = 0, entry = 0;
    const auto take = [&](int next, Entry what) {
      out.order[half][place++] = entry = next;
      out.entries[entry] = what;
    };
    for (int n = 0; n < lists.begin_blanks(half); ++n)
      take(lists.begin_blank_entry(half, n), Entry::absolute(blank_start, 1 << half));
    for (int i = Lists::kNearBlocks - 1; i >= 0; --i) {
      if ((lists.near[half] >> i & 1) != 0)
        take(lists.near_entry(half, i),
             Entry::absolute((first_near + i) * kTileKeys, lists.near_halves(half, i)));
    }
    while (place < lists.near_places(half)) out.order[half][place++] = entry;
  }
}

// One warp an item.
template <int TilesAStep>
__global__ void __launch_bounds__(kItemsOfBlock* kLanes)
    blocks_kernel(const DeviceIndex index, const Plan plan) {
  const int head = static_cast<int>(blockIdx.y);
  const int pair = static_cast<int>(blockIdx.x * kItemsOfBlock + threadIdx.x / kLanes);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (index.heads[head].form != sparse::IndexForm::blocks || pair >= plan.schedule.items_per_head) return;
  if (plan.not_squares != nullptr && *plan.not_squares == 0) return;  // squares.cu has made them
  const BlockItem block_item = BlockItem::of(index, plan, head, pair);
  const KeyBlocks(&listed)[2] = block_item.listed;
  const std::int32_t first_near = block_item.first_near;

  PairedLists<TilesAStep> lists = {};
  for (int half = 0; half < 2; ++half)
    for (int i = listed[half].far; i < listed[half].count; ++i)
      lists.near[half] |= 1 << (listed[half].blocks[i] - first_near);
  lists.shared = for_each_far_block(listed[0], listed[1], block_item.ascending, [](int, bool, int) {});
  for (int half = 0; half < 2; ++half) lists.own[half] = listed[half].far - lists.shared;
  // A call whose rows see nothing takes a step over a blank entry in each half.
  const bool nothing = lists.nothing();

  Item item = block_item.start();
  item.lower_late = nothing ? 0 : lists.lower_late();
  item.order_at[1] = item.order_at[0] + base::round_up(lists.all_places(0), 2);
  item.num_entries = nothing ? 1 : lists.num_entries();
  const ItemLists out = {plan.entries + item.entries_at,
                         {plan.order + item.order_at[0], plan.order + item.order_at[1]}};
  for (int half = 0; half < 2; ++half) {
    item.tiles[half] = nothing ? 1 : lists.all_places(half);
    item.plain_steps[half] =
        nothing ? 0 : lists.plain_steps(half, plan.causal == 0 || block_item.position % kTileKeys == 0);
  }
  const std::int32_t blank_start = base::round_up(plan.kv_len, kTileKeys);
  if (lane == 0) {
    if (nothing) {
      out.entries[0] = Entry::absolute(blank_start, 3);
      out.order[0][0] = out.order[1][0] = 0;
    } else {
      list_few(lists, first_near, blank_start, out);
    }
  }
  for (int half = 0; half < 2 && !nothing; ++half) {
    std::int32_t* order = out.order[half];
    const int first_shared = lists.near_places(half), first_own = first_shared + lists.shared;
    const auto list_block = [&](int block, bool is_shared, int rank) {
      const int entry = is_shared ? lists.shared_entry(rank) : lists.own_entry(half, rank);
      order[(is_shared ? first_shared : first_own) + rank] = entry;
      if (!is_shared || half == 0)
        out.entries[entry] = Entry::absolute(block * kTileKeys, is_shared ? 3 : 1 << half);
    };
    for_each_far_block(listed[half], listed[1 - half], block_item.ascending, list_block);
    __syncwarp();
    const int first_blank = TilesAStep * lists.steps(half);
    for (int n = lane; n < lists.blank_steps(half); n += kLanes) {
      const int entry = lists.blank_entry(half, n);
      out.entries[entry] = Entry::absolute(blank_start, 1 << half);
      for (int i = 0; i < TilesAStep; ++i) order[first_blank + TilesAStep * n + i] = entry;
    }
    if (lane == 0 && lists.blank_steps(half) > 0 && lists.places(half) % TilesAStep != 0)
      order[first_blank - 1] = order[first_blank - 2];
  }
  __syncwarp();
  if (lane == 0) {
    for (int half = 0; half < 2; ++half)
      for (int j = 0; j < min(2, item.tiles[half]); ++j)
        item.first[half][j] = static_cast<std::int16_t>(out.order[half][j]);
    plan.items[block_item.place] = item;
  }
}

}  // namespace

void prepare_blocks(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  if (plan.not_squares != nullptr) prepare_squares(call, plan, stream);
  const auto kernel = plan.tiles_a_step == 2 ? blocks_kernel<2> : blocks_kernel<1>;
  kernel<<<block_items_grid(plan), kItemsOfBlock * kLanes, 0, stream>>>(call.index, plan);
  minference::cuda::check(cudaGetLastError(), "launching the plan of block lists");
}

}  // namespace minference::kernels::cuda::sm90
