#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"
#include "sparse/device_index.h"
#include "sparse/rules.h"

// What a work item of the sm80 kernel computes: some query rows of one head, and their keys as tiles of 64 and
// columns. For the host's tests too.
namespace minference::kernels::cuda::sm80 {

inline constexpr int kTileKeys = static_cast<int>(sparse::kKeyTile);
inline constexpr int kRowBlock = static_cast<int>(sparse::kRowBlock);

struct CallShape {
  std::int32_t q_len, kv_len;
  bool causal;
};

// Query rows that share their keys: a row block, or what of it lies before or behind the first dense row.
struct ItemRows {
  std::int32_t origin;      // the row block's first row
  std::int32_t begin, end;  // none when end <= begin
  bool dense;               // every pair, whatever the head's form

  // Items 0, 1, .. are a head's row blocks; one more is the dense part of the block that dense rows cut.
  static MINFERENCE_HD constexpr ItemRows of(std::int32_t number, std::int32_t q_len,
                                             std::int32_t last_dense_rows) {
    const auto boundary = static_cast<std::int32_t>(sparse::first_dense_row(q_len, last_dense_rows));
    const std::int32_t num_blocks = base::divide_up(q_len, kRowBlock);
    if (number < num_blocks) {
      const std::int32_t begin = number * kRowBlock, end = base::min(begin + kRowBlock, q_len);
      const bool dense = begin >= boundary;
      return {begin, begin, dense ? end : base::min(end, boundary), dense};
    }
    const std::int32_t origin = boundary / kRowBlock * kRowBlock;
    const std::int32_t end = boundary == origin ? boundary : base::min(origin + kRowBlock, q_len);
    return {origin, boundary, end, true};
  }
};

// Tiles t < num_tiles, then the columns. A tile may begin before key 0 or reach behind the last key, and its
// pairs still obey the rule of window and sink; it shares no key with another.
struct Item {
  std::int32_t head;
  std::int32_t first_row, end_row;  // of the call
  std::int32_t position;            // of first_row, in keys
  std::int32_t key_end;             // no row sees a key at or behind it
  std::int32_t local = -1;          // window; -1: none
  std::int32_t sink = 0;
  std::int32_t num_tiles = 0;

  // A run of tiles down from run_end, then one down from sink_tiles * 64; or a list of starts.
  std::int32_t run_tiles = 0, run_end = 0, sink_tiles = 0;
  std::int32_t list_step = 0, list_unit = 0,
               list_origin = 0;  // tile t starts at origin + unit * list[step * t]
  const std::int32_t* list = nullptr;

  std::int32_t num_columns = 0;     // those at or behind key_end included
  std::int32_t block_position = 0;  // of the row block's first row
  const std::int32_t* columns = nullptr;
  const std::uint32_t* cover = nullptr;  // cover.h; nullptr: the head has no tiles

  static MINFERENCE_HD constexpr Item of(const CallShape& call, const sparse::DeviceIndex& index,
                                         const std::uint32_t* cover, std::int64_t cover_words,
                                         std::int32_t head_number, const ItemRows& rows) {
    const std::int32_t offset = call.kv_len - call.q_len;
    Item item{.head = head_number,
              .first_row = rows.begin,
              .end_row = rows.end,
              .position = offset + rows.begin,
              .key_end = call.causal ? offset + rows.end : call.kv_len,
              .block_position = offset + rows.origin};
    sparse::DeviceHead head;
    if (index.heads != nullptr && !rows.dense) head = index.heads[head_number];
    switch (head.form) {
      case sparse::IndexForm::all:
        item.set_all();
        break;
      case sparse::IndexForm::window:
        item.set_window(call, base::min(head.local, call.kv_len), base::min(head.sink, item.key_end));
        break;
      case sparse::IndexForm::relative:
        item.list = index.tiles + head_number * std::int64_t{index.tile_capacity};
        item.num_tiles = head.num_tiles;
        item.list_step = item.list_unit = 1;
        item.list_origin = item.block_position;
        item.num_columns = head.num_columns;
        item.columns = index.columns + head_number * std::int64_t{index.column_capacity};
        if (head.num_tiles > 0 && cover != nullptr) item.cover = cover + head_number * cover_words;
        break;
      case sparse::IndexForm::blocks: {
        const std::int64_t num_blocks = base::divide_up(call.q_len, kRowBlock);
        const std::int32_t* offsets =
            index.row_offsets + head_number * (num_blocks + 1) + rows.origin / kRowBlock;
        item.num_tiles = offsets[1] - offsets[0];
        item.list = index.key_blocks + head_number * std::int64_t{index.block_capacity} + offsets[1] - 1;
        item.list_step = -1;
        item.list_unit = kTileKeys;
        item.list_origin = 0;
        break;
      }
    }
    return item;
  }

  MINFERENCE_HD constexpr std::int32_t start_of(std::int32_t tile) const {
    if (list != nullptr) return list_origin + list_unit * list[list_step * tile];
    return tile < run_tiles ? run_end - kTileKeys * (tile + 1)
                            : kTileKeys * (sink_tiles - 1 - (tile - run_tiles));
  }

 private:
  MINFERENCE_HD constexpr void set_run(std::int32_t end) {
    run_end = end;
    num_tiles = run_tiles = base::divide_up(end, kTileKeys);
  }

  MINFERENCE_HD constexpr void set_all() { set_run(key_end); }

  MINFERENCE_HD constexpr void set_window(const CallShape& call, std::int32_t local_keys,
                                          std::int32_t sink_keys) {
    local = local_keys;
    sink = sink_keys;
    sink_tiles = base::divide_up(sink, kTileKeys);
    const std::int32_t last = position + (end_row - first_row) - 1;
    const std::int32_t begin = base::max(position - local + 1, 0);
    const std::int32_t end = local == 0    ? begin
                             : call.causal ? last + 1
                                           : base::min(last + local, call.kv_len);
    run_end = end;
    run_tiles = base::divide_up(end - begin, kTileKeys);
    if (end - run_tiles * kTileKeys < sink_tiles * kTileKeys) {  // they meet: one run down to key 0
      set_run(base::max(run_tiles > 0 ? end : 0, sink));
      sink_tiles = 0;
    }
    num_tiles = run_tiles + sink_tiles;
  }
};

}  // namespace minference::kernels::cuda::sm80
