// Makes the items of block lists that are made of squares, and finds whether all of the call's items are: squares.h.
#include "cuda/error.h"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/sm90/block_lists.cuh"
#include "kernels/attention/cuda/sm90/squares.h"

namespace minference::kernels::cuda::sm90 {

namespace {

using sparse::IndexForm;

// One warp an item. Heads that compute all pairs go with squares.
__global__ void __launch_bounds__(kItemsOfBlock* kLanes)
    squares_kernel(const DeviceIndex index, const Plan plan) {
  const int head = static_cast<int>(blockIdx.y);
  const int pair = static_cast<int>(blockIdx.x * kItemsOfBlock + threadIdx.x / kLanes);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const IndexForm form = index.heads[head].form;
  if (form == IndexForm::all || pair >= plan.schedule.items_per_head) return;
  if (form != IndexForm::blocks) {
    *plan.not_squares = 1;
    return;
  }
  const BlockItem block_item = BlockItem::of(index, plan, head, pair);
  const KeyBlocks &lower = block_item.listed[0], &upper = block_item.listed[1];
  const SquareLists lists = {lower.blocks, lower.count, block_item.has_upper ? upper.blocks : nullptr,
                             upper.count, block_item.first_near};
  bool squares = lists.may_be_squares();
  for (int n = lane; squares && n < lists.num_before(); n += kLanes) squares = lists.is_square(n);
  if (!__all_sync(minference::cuda::kAllLanes, squares)) {
    if (lane == 0) *plan.not_squares = 1;
    return;
  }

  Item item = block_item.start();
  item.num_entries = lists.num_entries();
  Entry* entries = plan.entries + item.entries_at;
  for (int e = lane; e < item.num_entries; e += kLanes)
    entries[e] = Entry::absolute(lists.block_of_entry(e, block_item.ascending) * kTileKeys, 3);
  for (int half = 0; half < 2; ++half) {
    item.tiles[half] = item.num_entries;
    item.plain_steps[half] = item.num_entries / 2;
  }
  if (lane == 0) plan.items[block_item.place] = item;
}

}  // namespace

void prepare_squares(const DeviceAttentionCall& call, const Plan& plan, Stream stream) {
  squares_kernel<<<block_items_grid(plan), kItemsOfBlock * kLanes, 0, stream>>>(call.index, plan);
  minference::cuda::check(cudaGetLastError(), "launching the plan of squares");
}

}  // namespace minference::kernels::cuda::sm90
