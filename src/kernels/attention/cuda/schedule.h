#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace minference::kernels::cuda {

struct DeviceAttentionCall;

// The order in which the work items of a call, so many for each query head, are computed: from the longest, the last
// rows of some heads, to the shortest, and then the next heads'.
struct Schedule {
  std::int32_t num_kv_heads;
  std::int32_t group;           // query heads a KV head
  std::int32_t items_per_head;  // numbered from the call's first rows to its last
  std::int32_t turns;           // query heads that take turns: 1, those of a KV head, or all
  std::int32_t concurrent;      // items computed at once, where a multiprocessor has one at a time

  // All heads take turns when all keys and values fit half of the device's L2, so that the shortest items come last and all
  // multiprocessors end together. Else those of a KV head, so that its keys stay in L2. When one KV head's do not fit,
  // heads follow one another: items of one head have lists of one length and start together, so they walk down the keys
  // side by side and each reads what another has brought. Block lists are all different; the closer the rows of those
  // that start together, the closer they walk, so the heads of a KV head take turns where no head is relative.
  static Schedule of(const DeviceAttentionCall& call, std::int32_t items_per_head);

  MINFERENCE_HD constexpr std::int32_t num_items() const { return num_kv_heads * group * items_per_head; }
  MINFERENCE_HD constexpr std::int32_t head(std::int32_t place) const {
    return place / (turns * items_per_head) * turns + place % turns;
  }
  MINFERENCE_HD constexpr std::int32_t number(std::int32_t place) const {
    return items_per_head - 1 - place % (turns * items_per_head) / turns;
  }
  MINFERENCE_HD constexpr std::int32_t place(std::int32_t head_index, std::int32_t number_in_head) const {
    return head_index / turns * turns * items_per_head + (items_per_head - 1 - number_in_head) * turns +
           head_index % turns;
  }
  // Items of one round of the heads that take turns start at about the same time.
  MINFERENCE_HD constexpr std::int32_t round(std::int32_t place) const {
    return place % (turns * items_per_head) / concurrent;
  }
};

}  // namespace minference::kernels::cuda
