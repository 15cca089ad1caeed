#pragma once

#include "base/arithmetic.h"
#include "kernels/attention/cuda/sm90/count_below.h"
#include "kernels/attention/cuda/sm90/paired_lists.h"
#include "kernels/attention/cuda/sm90/plan.h"

// What the makers of block lists' items read of the index, and where they write. By one warp an item.
namespace minference::kernels::cuda::sm90 {

inline constexpr int kItemsOfBlock = 8;  // of a block of threads, one a warp
inline constexpr int kLanes = 32;

inline dim3 block_items_grid(const Plan& plan) {
  const std::int32_t heads = plan.schedule.num_kv_heads * plan.schedule.group;
  return dim3(static_cast<unsigned>(base::divide_up(plan.schedule.items_per_head, kItemsOfBlock)),
              static_cast<unsigned>(heads));
}

// Of one row block, those before its last row's end, ascending.
struct KeyBlocks {
  const std::int32_t* blocks;
  std::int32_t count;
  std::int32_t far;  // those before the first near block

  __device__ bool holds(std::int32_t block) const {
    const int at = count_below(blocks, far, block);
    return at < far && blocks[at] == block;
  }
};

// An item of a head of form `blocks`: its row blocks' lists, and its places in `entries` and `order`.
struct BlockItem {
  int head, pair;
  std::int32_t place;       // in the schedule
  bool ascending;           // from the diagonal the walk goes on at the first block, not at the nearest one
  std::int32_t position;    // of the first row
  std::int32_t first_near;  // the first block that may reach behind some row and is masked
  KeyBlocks listed[2];
  bool has_upper;  // false: that half lies behind the last query
  std::int32_t entries_at, order_at;

  static __device__ BlockItem of(const DeviceIndex& index, const Plan& plan, int head, int pair) {
    BlockItem item = {.head = head, .pair = pair, .place = plan.schedule.place(head, pair)};
    // What one round has read last is still in L2 when the next one begins.
    item.ascending = plan.schedule.round(item.place) % 2 != 0;
    const int num_row_blocks = base::divide_up(plan.q_len, kHalfRows);
    item.position = plan.kv_len - plan.q_len + pair * kItemRows;
    // Without the causal rule only the block of the last key is masked.
    item.first_near = (plan.causal != 0 ? item.position : plan.kv_len - 1) / kTileKeys;
    item.has_upper = 2 * pair + 1 < num_row_blocks;
    const std::int32_t* offsets = index.row_offsets + static_cast<std::int64_t>(head) * (num_row_blocks + 1);
    const std::int32_t* head_blocks =
        index.key_blocks + static_cast<std::int64_t>(head) * index.block_capacity;
    for (int half = 0; half < 2; ++half) {
      const int row_block = min(2 * pair + half, num_row_blocks), next = min(row_block + 1, num_row_blocks);
      KeyBlocks& blocks = item.listed[half];
      blocks.blocks = head_blocks + offsets[row_block];
      const int last_key = plan.causal != 0 ? item.position + (half + 1) * kHalfRows - 1 : plan.kv_len - 1;
      const int end = last_key / kTileKeys + 1, listed = offsets[next] - offsets[row_block];
      // Lists seldom reach behind their rows, and a search is a chain of reads.
      blocks.count =
          listed == 0 || blocks.blocks[listed - 1] < end ? listed : count_below(blocks.blocks, listed, end);
      const int least_far = max(blocks.count - ListedBlocks::kNearBlocks, 0);
      blocks.far =
          least_far + count_below(blocks.blocks + least_far, blocks.count - least_far, item.first_near);
    }
    const auto at = static_cast<std::int32_t>(2 * offsets[min(2 * pair, num_row_blocks)] +
                                              words_of_paired_lists(0) * pair + head * plan.block_words);
    const std::int32_t num_lists = plan.schedule.num_kv_heads * plan.schedule.group + 1;
    item.entries_at = num_lists * plan.entry_capacity + at;
    item.order_at = 2 * num_lists * plan.entry_capacity + at;
    return item;
  }

  // The kernel's item, without its lists.
  __device__ Item start() const {
    Item item = {};
    item.head = head;
    item.first_row = pair * kItemRows;
    item.local = -1;
    item.entries_at = entries_at;
    item.order_at[0] = item.order_at[1] = order_at;
    return item;
  }
};

}  // namespace minference::kernels::cuda::sm90
