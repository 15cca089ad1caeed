#pragma once

#include "base/arithmetic.h"
#include "kernels/attention/cuda/sm90/count_below.h"
#include "kernels/attention/cuda/sm90/plan.h"

// What an item computes, for heads whose row blocks share one list; paired_lists.h has the others. For the host's
// tests too; docs/kernels/attention-sm90.md says why it is so.
namespace minference::kernels::cuda::sm90 {

// Causal steps of one tile: the lower half's first place is the upper half's second, so that each half's first step
// holds its diagonal. Steps of two hold both diagonals.
MINFERENCE_HD constexpr std::int32_t lower_half_ahead(const Plan& plan) {
  return plan.causal != 0 && plan.tiles_a_step == 1 ? 1 : 0;
}

// Of one list of entries; even. A relative head has at most two entries a tile; the dense list reaches from 128 behind
// an item to key 0. Without the causal rule a window's list reaches as far behind an item as before it.
MINFERENCE_HD constexpr std::int32_t entry_capacity(std::int32_t kv_len, bool causal,
                                                    std::int32_t tile_capacity) {
  const std::int32_t most_tiles = (causal ? 1 : 2) * (kv_len / kTileKeys) + 6;
  return base::round_up(base::max(2 * tile_capacity, most_tiles), 2);
}

// The list of entries behind those of the heads is the dense one: entry 0 lies behind every row, so that it
// computes nothing, and entries 1, 2, .. start 64, 0, -64, .. keys from the item's first row. Without the causal rule it
// is the same for all items: entries 1, 2, .. lead from the last key down to key 0.
inline constexpr std::int32_t kNothing = 0;
inline constexpr std::int32_t kDense = 1;

// The tiles of a call without the causal rule: whole steps, so that the last keys and whatever lies behind them are in
// the first one, which is masked.
MINFERENCE_HD constexpr std::int32_t all_tiles(const Plan& plan) {
  return base::round_up(base::divide_up(plan.kv_len, kTileKeys), plan.tiles_a_step);
}

MINFERENCE_HD constexpr Entry dense_entry(const Plan& plan, std::int32_t e) {
  if (plan.causal == 0) return Entry::absolute(kTileKeys * (all_tiles(plan) - e), 3);
  return Entry::relative(kItemRows - kTileKeys * e, e == kDense && lower_half_ahead(plan) != 0 ? 2 : 3);
}

// What a half of an item of the dense list takes at its place e.
MINFERENCE_HD constexpr std::int32_t dense_order(const Plan& plan, int half, std::int32_t e) {
  return half == 0 ? e + lower_half_ahead(plan) : e;
}

MINFERENCE_HD constexpr Item dense_item(const Plan& plan, std::int32_t item_position) {
  const std::int32_t dense_list = plan.schedule.num_kv_heads * plan.schedule.group * plan.entry_capacity;
  Item item = {};
  item.entries_at = dense_list + kDense;
  item.local = -1;
  item.lower_late = lower_half_ahead(plan);
  // Down to the tile that holds key 0, and to whole steps: the last one may lie before it.
  item.num_entries = plan.causal != 0
                         ? base::round_up((item_position + kItemRows - 1) / kTileKeys + 1, plan.tiles_a_step)
                         : all_tiles(plan);
  // Entries start 64, 0, -64, .. from the item's first row; a half's first step holds its diagonal.
  const std::int32_t plain = plan.causal != 0 ? item_position / kTileKeys + 2 : item.num_entries;
  for (int half = 0; half < 2; ++half) {
    const std::int32_t ahead = dense_order(plan, half, 0);
    item.order_at[half] = 2 * dense_list + half * plan.entry_capacity;
    item.first[half][0] = static_cast<std::int16_t>(ahead);
    item.first[half][1] = static_cast<std::int16_t>(ahead + 1);
    item.tiles[half] = item.num_entries - ahead;
    item.plain_steps[half] = (plain - ahead) / plan.tiles_a_step;
  }
  return item;
}

// One step of each half that computes nothing.
MINFERENCE_HD constexpr Item nothing_item(const Plan& plan, std::int32_t item_position) {
  Item item = dense_item(plan, item_position);
  item.entries_at += kNothing - kDense;
  item.num_entries = 1;
  item.lower_late = 0;
  for (int half = 0; half < 2; ++half) {
    item.order_at[half] = item.order_at[1];
    item.first[half][0] = 0;
    item.tiles[half] = 1;
    item.plain_steps[half] = 0;
  }
  return item;
}

// A window's tiles: a run down from `first`, counted from the item's first row, then those of the sink.
struct WindowTiles {
  std::int32_t first, run, sink;

  static MINFERENCE_HD constexpr WindowTiles of(const sparse::DeviceHead& head, const Plan& plan) {
    const std::int32_t ahead = plan.causal != 0 ? 1 : (kItemRows - 2 + head.local) / kTileKeys;
    return {ahead * kTileKeys, ahead + 1 + (kTileKeys - 2 + head.local) / kTileKeys,
            base::divide_up(head.sink, kTileKeys)};
  }

  MINFERENCE_HD constexpr std::int32_t count() const { return run + sink; }
  MINFERENCE_HD constexpr Entry entry(const Plan& plan, std::int32_t e) const {
    if (e >= run) return Entry::absolute(kTileKeys * (sink - 1 - (e - run)), 3);
    return Entry::relative(first - kTileKeys * e, e == 0 && lower_half_ahead(plan) != 0 ? 2 : 3);
  }
};

// list: where the head's entries begin. head.local and head.sink are at most kv_len.
MINFERENCE_HD constexpr Item window_item(const sparse::DeviceHead& head, std::int32_t list, const Plan& plan,
                                         std::int32_t item_position) {
  const WindowTiles window = WindowTiles::of(head, plan);
  Item item = dense_item(plan, item_position);
  item.local = head.local;
  item.sink = head.sink;
  const std::int32_t first = item_position + window.first;
  const bool meets_sink = first - kTileKeys * (window.run - 1) < window.sink * kTileKeys;
  if (!meets_sink) {
    // Those that begin behind the last key are left out.
    const std::int32_t left_out =
        plan.causal != 0 ? 0 : base::max(first + kTileKeys - plan.kv_len, 0) / kTileKeys;
    item.entries_at = list + left_out;
    item.num_entries = window.count() - left_out;
  } else if (plan.causal == 0) {  // one run down to key 0
    const std::int32_t last_key = base::max(item_position + kItemRows - 2 + head.local, head.sink - 1);
    const std::int32_t last_tile = base::min(last_key, plan.kv_len - 1) / kTileKeys;
    item.entries_at += item.num_entries - 1 - last_tile;
    item.num_entries = last_tile + 1;
  }
  for (int half = 0; half < 2; ++half) {
    item.tiles[half] = item.num_entries - dense_order(plan, half, 0);
    // The upper half, whose last row is the furthest, sees its tile j whole while 64 j <= local - 64. Without the causal
    // rule up to three tiles reach behind some row's window: all steps are masked.
    const std::int32_t plain = head.local / kTileKeys / plan.tiles_a_step;
    item.plain_steps[half] = plan.causal != 0 ? base::min(item.plain_steps[half], plain) : 0;
  }
  return item;
}

// A relative head's lists in device memory.
struct RelativeLists {
  const std::int32_t* tiles;    // the index's
  const std::int32_t* columns;  // the index's
  const Entry* entries;
  const std::int32_t* order[2];  // by half
};

MINFERENCE_HD constexpr std::int32_t entries_that_reach_key_zero(const Entry* entries, std::int32_t count,
                                                                 std::int32_t item_position) {
  std::int32_t low = 0, high = count;  // entries [0, low) reach key 0 or beyond
  while (low < high) {
    const std::int32_t middle = (low + high) / 2;
    if (entries[middle].start(item_position) + kTileKeys > 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// list: where the head's entries begin.
MINFERENCE_HD constexpr Item relative_item(const RelativeLists& lists, const sparse::DeviceHead& head,
                                           std::int32_t list, const Plan& plan, std::int32_t item_position) {
  Item item = {};
  item.entries_at = list;
  item.order_at[0] = 2 * list;
  item.order_at[1] = 2 * list + plan.entry_capacity;
  item.local = -1;
  item.lower_late = lower_half_ahead(plan);
  item.num_columns = count_below(lists.columns, head.num_columns, item_position + kItemRows);
  const std::int32_t num_entries = head.num_tiles > 0 ? lists.order[0][head.num_tiles - 1] + 1 : 0;
  item.num_entries = entries_that_reach_key_zero(lists.entries, num_entries, item_position);
  if (item.num_columns == 0) {
    // Each half takes one step at least; a tile that lies before key 0 computes nothing.
    if (head.num_tiles == 0) return nothing_item(plan, item_position);
    item.num_entries = base::max(item.num_entries, 2);
  }
  for (int half = 0; half < 2; ++half) {
    item.tiles[half] = count_below(lists.order[half], head.num_tiles, item.num_entries);
    for (std::int32_t j = 0; j < base::min(2, head.num_tiles); ++j)
      item.first[half][j] = static_cast<std::int16_t>(lists.order[half][j]);
    // Of a half's tiles only the first reaches its rows, and only the last may begin before key 0.
    const std::int32_t tiles = item.tiles[half];
    const bool clipped = tiles > 0 && item_position + half * kHalfRows + lists.tiles[tiles - 1] < 0;
    item.plain_steps[half] = (tiles - clipped) / plan.tiles_a_step;
  }
  return item;
}

}  // namespace minference::kernels::cuda::sm90
