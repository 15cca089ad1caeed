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

// Reads a list of entries in ascending order, 32 at a time, one chunk ahead.
class EntryReader {
 public:
  __device__ __forceinline__ EntryReader(const Entry* entries, int count) : entries_(entries), count_(count) {
    current_ = chunk(0);
    next_ = chunk(1);
  }

  __device__ __forceinline__ Entry at(int e) {
    if (e > 0 && e % 32 == 0) {
      current_ = next_;
      next_ = chunk(e / 32 + 1);
    }
    return {__shfl_sync(minference::cuda::kAllLanes, current_, e % 32)};
  }

 private:
  __device__ __forceinline__ std::int32_t chunk(int number) const {
    const int e = 32 * number + static_cast<int>(threadIdx.x % 32);
    return e < count_ ? __ldg(&entries_[e].bits) : 0;
  }

  const Entry* entries_;
  int count_;
  std::int32_t current_, next_;
};

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

template <class Config>
__device__ __forceinline__ void produce_items_and_keys(SharedMemory<Config>& shared, const InputMaps& maps,
                                                       const Plan& plan) {
  const bool leader = threadIdx.x % 32 == 0;
  const int num_items = plan.schedule.num_items();

  // Sends an item and its queries: they arrive together. `origin`: the item's head and first row.
  const auto announce = [&](int use, int number, int2 origin) {
    const RingPosition<kQueryBuffers> at(use);
    auto& full = shared.item_full[at.slot];
    shared.item_empty[at.slot].wait(at.parity ^ 1);
    full.arrive_expect_bytes(Config::kQueryBytes + sizeof(Item));
    minference::cuda::bulk_load(&shared.item[at.slot], plan.items + number, sizeof(Item), full);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      minference::cuda::tma_load(shared.query[at.slot] + panel * Config::kQueryPanelBytes, maps.query, full,
                                 panel * kPanelDim, origin.y, origin.x);
    }
  };
  const auto claim = [&] {
    return min(num_items, static_cast<int>(gridDim.x) + atomicAdd(plan.next_item, 1));
  };
  const auto origin_of = [&](int number) {
    return __ldg(reinterpret_cast<const int2*>(plan.items + number));
  };
  // The other query buffer is free once both halves have passed this item's second step, which needs its
  // first eight entries at most.
  constexpr int kAnnounceAfter = 8;

  int claimed = min(num_items, static_cast<int>(blockIdx.x));
  int2 origin = origin_of(claimed);
  if (leader) {
    announce(0, claimed, origin);
    claimed = claim();
    origin = origin_of(claimed);
  }
  int key_use = 0;
  for (int use = 0;; use = use_after(use, 1)) {
    const RingPosition<kQueryBuffers> at(use);
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    if (item.head < 0) return;
    const int item_position = item.first_row + plan.kv_len - plan.q_len;
    const int kv_head = item.head / plan.schedule.group;
    const int total = item.num_entries + item.column_tiles();
    EntryReader reader(plan.entries + item.entries_at, item.num_entries);
#pragma unroll 1
    for (int e = 0; e < total; ++e, key_use = use_after(key_use, 1)) {
      const bool is_column = e >= item.num_entries;
      const Entry entry = reader.at(e);
      if (leader) {
        const RingPosition<Config::kKeySlots> key(key_use);
        shared.key_empty[key.slot].wait(key.parity ^ 1);
        const int column = (e - item.num_entries) * kTileKeys;
        const int start = is_column ? column : entry.start(item_position);
        shared.key_start[key.slot] = is_column ? kFirstColumnTile + (e - item.num_entries) : start;
        if (!is_column) release_for_absent_half(shared.key_empty[key.slot], entry.halves());
        load_tile<Config>(shared.key[0][key.slot], Config::kKeyPanelStride,
                          is_column ? maps.gathered_key : maps.key, shared.key_full[key.slot], start,
                          is_column ? item.head : kv_head);
        if (e == min(kAnnounceAfter, total - 1)) {
          announce(use_after(use, 1), claimed, origin);
          claimed = claim();
          origin = origin_of(claimed);
        }
      }
    }
  }
}

template <class Config>
__device__ __forceinline__ void produce_values(SharedMemory<Config>& shared, const InputMaps& maps,
                                               const Plan& plan) {
  const bool leader = threadIdx.x % 32 == 0;
  int value_use = 0;
  for (int use = 0;; use = use_after(use, 1)) {
    const RingPosition<kQueryBuffers> at(use);
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    __syncwarp();
    if (leader) shared.item_empty[at.slot].arrive();
    if (item.head < 0) return;
    const int item_position = item.first_row + plan.kv_len - plan.q_len;
    const int kv_head = item.head / plan.schedule.group;
    const int total = item.num_entries + item.column_tiles();
    EntryReader reader(plan.entries + item.entries_at, item.num_entries);
#pragma unroll 1
    for (int e = 0; e < total; ++e, value_use = use_after(value_use, 1)) {
      const bool is_column = e >= item.num_entries;
      const Entry entry = reader.at(e);
      if (leader) {
        const RingPosition<Config::kValueSlots> value(value_use);
        shared.value_empty[value.slot].wait(value.parity ^ 1);
        const int start = is_column ? (e - item.num_entries) * kTileKeys : entry.start(item_position);
        if (!is_column) release_for_absent_half(shared.value_empty[value.slot], entry.halves());
        load_tile<Config>(shared.value[0][value.slot], Config::kValuePanelStride,
                          is_column ? maps.gathered_value : maps.value, shared.value_full[value.slot], start,
                          is_column ? item.head : kv_head);
      }
    }
  }
}

// Which columns of each tile a half computes: those that none of its tiles holds and that its last row may
// see.
template <class Config>
__device__ __forceinline__ void produce_column_masks(SharedMemory<Config>& shared, const Plan& plan) {
  using minference::cuda::kAllLanes;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int mask_use = 0;
  for (int use = 0;; use = use_after(use, 1)) {
    const RingPosition<kQueryBuffers> at(use);
    shared.item_full[at.slot].wait(at.parity);
    const Item item = shared.item[at.slot];
    __syncwarp();
    if (lane == 0) shared.item_empty[at.slot].arrive();
    if (item.head < 0) return;
    const std::int32_t* columns = plan.columns + static_cast<std::int64_t>(item.head) * plan.column_capacity;
    const std::uint32_t* cover = plan.cover + static_cast<std::int64_t>(item.head) * plan.cover_words;
    const int item_position = item.first_row + plan.kv_len - plan.q_len;
#pragma unroll 1
    for (int tile = 0; tile < item.column_tiles(); tile += kColumnMaskBatch) {
      std::uint32_t keep[2][2 * kColumnMaskBatch];
      std::uint32_t partial[2][2 * kColumnMaskBatch];
#pragma unroll
      for (int i = 0; i < 2 * kColumnMaskBatch; ++i) {
        const int n = tile * kTileKeys + 32 * i + lane;
        const int column = n < item.num_columns ? __ldg(columns + n) : plan.kv_len;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int position = item_position + half * kHalfRows;
          const bool seen = column < min(position + kHalfRows, plan.kv_len);
          // A half that lies behind the last query computes nothing that counts.
          const int bit = seen ? max(column - position + plan.kv_len, 0) : 0;
          const bool covered = __ldg(cover + bit / 32) >> bit % 32 & 1u;
          keep[half][i] = __ballot_sync(kAllLanes, seen && !covered);
          partial[half][i] = __ballot_sync(kAllLanes, seen && !covered && column > position);
        }
      }
#pragma unroll
      for (int i = 0; i < kColumnMaskBatch; ++i) {
        if (tile + i >= item.column_tiles()) break;
        const RingPosition<kColumnMasks> mask(mask_use);
        mask_use = use_after(mask_use, 1);
        if (lane == 0) {
          shared.mask_empty[mask.slot].wait(mask.parity ^ 1);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            shared.column_mask[mask.slot].keep[half] =
                static_cast<std::uint64_t>(keep[half][2 * i + 1]) << 32 | keep[half][2 * i];
            shared.column_mask[mask.slot].partial[half] =
                (partial[half][2 * i] | partial[half][2 * i + 1]) != 0;
          }
          shared.mask_full[mask.slot].arrive();
        }
      }
    }
  }
}

}  // namespace minference::kernels::cuda::sm90
