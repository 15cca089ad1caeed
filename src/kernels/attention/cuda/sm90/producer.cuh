#pragma once

#include "cuda/math.cuh"
#include "cuda/tma.cuh"
#include "kernels/attention/cuda/sm90/config.h"

// The producer warps of the Hopper attention kernel: one brings items, queries and keys, one values, one the
// masks of columns. They are apart so that waiting for a free buffer of one kind never delays another.
namespace minference::kernels::cuda::sm90 {

struct InputMaps {
  CUtensorMap query, key, value, gathered_key, gathered_value;
};

// A ring's next buffer to fill, and the parity of the phase that its barriers complete then.
template <int Slots>
struct FillPosition {
  int slot = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == Slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// Calls bring(number, start, halves, is_column) for every tile that an item loads, in order. Entries are read
// two tiles ahead.
template <class Bring>
__device__ __forceinline__ void for_each_tile(const Item& item, const Plan& plan, Bring bring) {
  const int item_position = item.first_row + plan.kv_len - plan.q_len;
  const std::int32_t* entries = &plan.entries[item.entries_at].bits;
  const int last = max(item.num_entries - 1, 0);
  std::int32_t next = entries[0], after = entries[min(1, last)];
#pragma unroll 1
  for (int e = 0; e < item.num_entries; ++e) {
    const Entry entry = {next};
    next = after;
    after = entries[min(e + 2, last)];
    bring(e, entry.start(item_position), entry.halves(), false);
  }
#pragma unroll 1
  for (int tile = 0; tile < item.column_tiles(); ++tile) {
    bring(item.num_entries + tile, tile * kTileKeys, 3, true);
  }
}

template <class Config>
__device__ __forceinline__ void load_tile(void* shared, int panel_stride, const CUtensorMap& map,
                                          minference::cuda::Barrier& full, int row, int head) {
  full.arrive_expect_bytes(Config::kTileBytes);
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    minference::cuda::tma_load(static_cast<std::uint8_t*>(shared) + panel * panel_stride, map, full,
                               panel * kPanelDim, row, head);
  }
}

// A half that skips an entry does not wait for it: the producer, which knows that the slot is free, gives the
// half's share of the release when it fills the slot.
__device__ __forceinline__ void release_for_absent_half(minference::cuda::Barrier& empty, int halves) {
  if (halves != 3) empty.arrive(kHalfWarps);
}

// By one thread.
template <class Config>
__device__ __forceinline__ void produce_items_and_keys(SharedMemory<Config>& shared, const InputMaps& maps,
                                                       const Plan& plan) {
  const int num_items = plan.schedule.num_items();
  FillPosition<kItemBuffers> to;

  // Sends an item and its queries: they arrive together. The buffer of queries is free when every consumer has
  // the queries of the item before in registers and has sent the output of the one before that; or, where they stay
  // in the buffer, has sent the output of the item before. It then needs the record before that no more, either.
  const auto announce = [&](int number, bool first) {
    auto& full = shared.item_full[to.slot];
    const int2 origin = *reinterpret_cast<const int2*>(plan.items + number);  // head and first row
    shared.item_empty[to.slot].wait(to.parity ^ 1);
    if (!first) shared.query_empty.wait(to.slot == 0);
    full.arrive_expect_bytes(Config::kQueryBytes + sizeof(Item));
    minference::cuda::bulk_load(&shared.item[to.slot], plan.items + number, sizeof(Item), full);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      minference::cuda::tma_load(shared.query + panel * Config::kQueryPanelBytes, maps.query, full,
                                 panel * kPanelDim, origin.y, origin.x);
    }
    to.advance();
  };
  const auto claim = [&] { return static_cast<int>(gridDim.x) + atomicAdd(plan.next_item, 1); };
  // The buffer of queries in registers is free once both halves have passed this item's second step, which needs its
  // first eight entries at most; of others, when all of the item has been done.
  constexpr int kAnnounceAfter = 8;
  // The next item is claimed as late as its way here allows: claimed an item ahead, it waits for its CTA while others
  // have nothing left to do. Tiles announced ahead of the last; tiles that a claim's answer takes.
  constexpr int kAnnounceAhead = 4, kClaimAhead = 2;

  announce(min(num_items, static_cast<int>(blockIdx.x)), true);
  int claimed = num_items;
  FillPosition<Config::kKeySlots> key;
  for (FillPosition<kItemBuffers> at;; at.advance()) {
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    if (item.head < 0) return;
    const int kv_head = item.head / plan.schedule.group;
    const int last = item.num_entries + item.column_tiles() - 1;
    const int announce_at =
        Config::kQueryInRegisters ? max(min(kAnnounceAfter, last), last - kAnnounceAhead) : last;
    const int claim_at = max(announce_at - kClaimAhead, 0);
    for_each_tile(item, plan, [&](int number, int start, int halves, bool is_column) {
      shared.key_empty[key.slot].wait(key.parity ^ 1);
      shared.key_start[key.slot] = start;
      release_for_absent_half(shared.key_empty[key.slot], halves);
      load_tile<Config>(shared.key[0][key.slot], Config::kKeyPanelStride,
                        is_column ? maps.gathered_key : maps.key, shared.key_full[key.slot], start,
                        is_column ? item.head : kv_head);
      key.advance();
      if (number == claim_at) claimed = claim();
      if (number == announce_at) announce(min(num_items, claimed), false);
    });
  }
}

// By one thread.
template <class Config>
__device__ __forceinline__ void produce_values(SharedMemory<Config>& shared, const InputMaps& maps,
                                               const Plan& plan) {
  FillPosition<Config::kValueSlots> value;
  for (FillPosition<kItemBuffers> at;; at.advance()) {
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    shared.item_empty[at.slot].arrive();
    if (item.head < 0) return;
    const int kv_head = item.head / plan.schedule.group;
    for_each_tile(item, plan, [&](int, int start, int halves, bool is_column) {
      shared.value_empty[value.slot].wait(value.parity ^ 1);
      release_for_absent_half(shared.value_empty[value.slot], halves);
      load_tile<Config>(shared.value[0][value.slot], Config::kValuePanelStride,
                        is_column ? maps.gathered_value : maps.value, shared.value_full[value.slot], start,
                        is_column ? item.head : kv_head);
      value.advance();
    });
  }
}

// The scores kept of a tile of columns by the threads t % 4 == quarter; bit n of high:low keeps column n.
__device__ __forceinline__ KeptScores keep_columns(std::uint32_t low, std::uint32_t high, int quarter) {
  KeptScores kept = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const std::uint32_t pair = (j < 4 ? low : high) >> (8 * (j % 4) + 2 * quarter) & 3u;
    kept |= pair * 5u << 4 * j;  // for both rows
  }
  return kept;
}

// Which columns of each tile a half computes: those that none of its tiles holds and that its last row may
// see. By all lanes of kColumnMaskWarps warps, which take turns.
template <class Config>
__device__ __forceinline__ void produce_column_masks(SharedMemory<Config>& shared, const Plan& plan,
                                                     int warp) {
  using minference::cuda::kAllLanes;
  constexpr int kLaneColumns = 2 * kColumnMaskBatch;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int first_use = 0;
  for (FillPosition<kItemBuffers> at;; at.advance()) {
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    __syncwarp();
    if (lane == 0) shared.item_empty[at.slot].arrive();
    if (item.head < 0) return;
    const std::int32_t* columns = plan.columns + static_cast<std::int64_t>(item.head) * plan.column_capacity;
    const std::uint32_t* cover = plan.cover + static_cast<std::int64_t>(item.head) * plan.cover_words;
    const int item_position = item.first_row + plan.kv_len - plan.q_len;
    std::int32_t next[kLaneColumns];
    const auto read_ahead = [&](int tile) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        const int n = tile * kTileKeys + 32 * i + lane;
        next[i] = n < item.num_columns ? __ldg(columns + n) : plan.kv_len;
      }
    };
    read_ahead(warp * kColumnMaskBatch);
#pragma unroll 1
    for (int tile = warp * kColumnMaskBatch; tile < item.column_tiles();
         tile += kColumnMaskWarps * kColumnMaskBatch) {
      std::uint32_t keep[2][kLaneColumns];
      int late[2] = {0, 0};  // bit i: in the i-th tile of the batch
      std::int32_t here[kLaneColumns];
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) here[i] = next[i];
      read_ahead(tile + kColumnMaskWarps * kColumnMaskBatch);
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int position = item_position + half * kHalfRows;
          const bool seen = here[i] < min(position + kHalfRows, plan.kv_len);
          // A half that lies behind the last query computes nothing that counts.
          const int bit = seen ? max(here[i] - position + plan.kv_len, 0) : 0;
          const bool covered = cover[bit / 32] >> bit % 32 & 1u;
          keep[half][i] = __ballot_sync(kAllLanes, seen && !covered);
          late[half] |= seen && !covered && here[i] > position ? 1 << i / 2 : 0;
        }
      }
#pragma unroll
      for (int i = 0; i < kColumnMaskBatch; ++i) {
        if (tile + i >= item.column_tiles()) break;
        const RingPosition<kColumnMasks> mask(use_after(first_use, tile + i));
        const int half = lane / 4 % 2;
        const std::uint32_t* words = keep[0] + 2 * i;
        const std::uint32_t low = half == 0 ? words[0] : words[kLaneColumns],
                            high = half == 0 ? words[1] : words[kLaneColumns + 1];
        const KeptScores kept = keep_columns(low, high, lane % 4);
        shared.mask_empty[mask.slot].wait(mask.parity ^ 1);
        auto& mask_words = shared.column_mask[mask.slot].words;
        if (lane < kColumnMaskWriters) mask_words[half][lane % 4] = kept;
        const bool late_lower = __any_sync(kAllLanes, late[0] >> i & 1),
                   late_upper = __any_sync(kAllLanes, late[1] >> i & 1);
        if (lane < 2) mask_words[lane][kColumnMaskReaders - 1] = lane == 0 ? late_lower : late_upper;
        if (lane < kColumnMaskWriters) shared.mask_full[mask.slot].arrive();
      }
    }
    first_use = use_after(first_use, item.column_tiles());
  }
}

}  // namespace minference::kernels::cuda::sm90
