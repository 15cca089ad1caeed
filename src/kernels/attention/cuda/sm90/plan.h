#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/host_device.h"
#include "kernels/attention/cuda/attention_cuda.h"
#include "kernels/attention/cuda/schedule.h"
#include "sparse/rules.h"

// What the Hopper attention kernel walks, made from the index on the device. docs/kernels/attention-sm90.md
// explains why.
namespace minference::kernels::cuda::sm90 {

// A work item is one query head and two neighbouring row blocks, its lower and its upper half.
inline constexpr int kHalfRows = static_cast<int>(sparse::kRowBlock);
inline constexpr int kItemRows = 2 * kHalfRows;
inline constexpr int kTileKeys = static_cast<int>(sparse::kKeyTile);

// Tiles of keys that a half takes at once: as many as their scores, beside 64 rows of output, have registers for.
MINFERENCE_HD constexpr int tiles_a_step(std::int64_t head_dim) {
  return head_dim <= 128 ? 2 : 1;
}

// A half reads its tiles, at most two a step, two steps before it takes them, and its columns' steps do not stop it: it
// reads so many places of `order` behind its tiles and its column tiles at most, and uses none of them.
inline constexpr int kOrderAhead = 5;

// One tile that an item loads: its start, relative to the position of the item's first row unless `absolute`,
// and which halves compute it (bit 0: lower, bit 1: upper).
struct Entry {
  std::int32_t bits;

  static MINFERENCE_HD constexpr Entry relative(std::int32_t start, std::int32_t halves) {
    return {start * 8 + halves};
  }
  static MINFERENCE_HD constexpr Entry absolute(std::int32_t start, std::int32_t halves) {
    return {start * 8 + 4 + halves};
  }

  MINFERENCE_HD constexpr std::int32_t halves() const { return bits & 3; }
  MINFERENCE_HD constexpr std::int32_t start(std::int32_t item_position) const {
    return (bits >> 3) + ((bits & 4) != 0 ? 0 : item_position);
  }
};

// An item loads its entries and then its columns, 64 a tile; entries e are counted through both.
// Half h computes the entries order[order_at[h] + j] for j < tiles[h], then every column tile; a step of two whose
// entries are one computes it once.
struct alignas(16) Item {
  std::int32_t head;       // query head; -1 ends the schedule
  std::int32_t first_row;  // of the call
  std::int32_t entries_at;
  std::int32_t num_entries;
  std::int32_t tiles[2];
  std::int32_t order_at[2];  // even
  std::int16_t first[2][2];  // of each half, order[order_at] and the next, so that a first step need not wait
  std::int32_t num_columns;  // columns at or before the item's last row
  std::int32_t local;        // window rule; -1: none
  std::int32_t sink;
  // Steps [1, plain_steps[h]) of half h are whole and of tiles whose every key is seen by every row.
  std::int32_t plain_steps[2];
  // Steps of one tile: 1 when the lower half lets a turn pass before its first step, so that both halves take an entry
  // in the same turn.
  std::int32_t lower_late;

  MINFERENCE_HD constexpr std::int32_t column_tiles() const {
    return (num_columns + kTileKeys - 1) / kTileKeys;
  }
};

static_assert(sizeof(Item) == 64);

// Device memory of one call, laid out by lay_out(). Written while the attention kernel may already wait on the device, so
// not to be read through the read-only cache (`__ldg`).
struct Plan {
  Schedule schedule;
  std::int32_t q_len;
  std::int32_t kv_len;
  std::int32_t causal;  // 0 or 1
  std::int32_t tiles_a_step;
  std::int32_t tile_capacity;      // of the index
  std::int32_t entry_capacity;     // of one list of entries; even
  std::int32_t block_words;        // of `entries` and of `order` for one head's block lists; even
  std::int32_t column_capacity;    // of one head's columns in the index
  std::int32_t gathered_capacity;  // of one head's gathered columns; a multiple of 64
  std::int32_t cover_words;        // of one head's cover

  std::int32_t* next_item;  // work counter
  // Null, or whether some item is not made of squares of block lists or of all pairs: of the kernel's two
  // instantiations, which are both launched, this says which one computes. squares.h
  std::int32_t* not_squares;
  Item* items;  // [num_items + 1], the last one ends the schedule
  // [num_query_heads + 1, entry_capacity], of which the last list is the dense one, see prepare.cu; then
  // [num_query_heads, block_words].
  Entry* entries;
  // [num_query_heads + 1, 2 halves, entry_capacity], [num_query_heads, block_words], and room for what is read
  // ahead.
  std::int32_t* order;
  std::uint32_t* cover;         // [num_query_heads, cover_words]
  const std::int32_t* columns;  // the index's
  void* gathered_key;           // [num_query_heads, gathered_capacity, head_dim], zero behind the last column
  void* gathered_value;
};

// Takes the plan's device memory from `arena`.
Plan lay_out(const DeviceAttentionCall& call, base::Arena& arena);

// Fills the items of heads of form `blocks`, and their entries and orders.
void prepare_blocks(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

// Fills them as far as they are made of squares, and *not_squares.
void prepare_squares(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

// Fills the plan's device memory and gathers the columns' keys and values.
void prepare_plan(const DeviceAttentionCall& call, const Plan& plan, Stream stream);

}  // namespace minference::kernels::cuda::sm90
