#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace minference::kernels::cuda {

struct DeviceAttentionCall;

// The order in which the work items of a call, so many for each query head, are computed: by KV head, so that
// its keys stay in L2, and from the longest, a head's last rows, to the shortest. The heads of a group take turns,
// or, `by_head`, follow one another.
struct Schedule {
  std::int32_t num_kv_heads;
  std::int32_t group;           // query heads a KV head
  std::int32_t items_per_head;  // numbered from the call's first rows to its last
  std::int32_t by_head;         // 0 or 1
  std::int32_t concurrent;      // items computed at once, where a multiprocessor has one at a time

  // By head when keys and values of a KV head do not fit the device's L2: items of one head have lists of one
  // length and start together, so they walk down the keys side by side and each reads what another has brought.
  // Block lists are all different; the closer the rows of those that start together, the closer they walk, so their
  // heads take turns where no head is relative.
  static Schedule of(const DeviceAttentionCall& call, std::int32_t items_per_head);

  MINFERENCE_HD constexpr std::int32_t num_items() const { return num_kv_heads * group * items_per_head; }
  MINFERENCE_HD constexpr std::int32_t head(std::int32_t place) const {
    return place / (turns() * items_per_head) * turns() + place % turns();
  }
  MINFERENCE_HD constexpr std::int32_t number(std::int32_t place) const {
    return items_per_head - 1 - place % (turns() * items_per_head) / turns();
  }
  MINFERENCE_HD constexpr std::int32_t place(std::int32_t head_index, std::int32_t number_in_head) const {
    return head_index / turns() * turns() * items_per_head + (items_per_head - 1 - number_in_head) * turns() +
           head_index % turns();
  }
  // Items of one round of their head, or of its group, start at about the same time.
  MINFERENCE_HD constexpr std::int32_t round(std::int32_t place) const {
    return place % (turns() * items_per_head) / concurrent;
  }

 private:
  MINFERENCE_HD constexpr std::int32_t turns() const { return by_head != 0 ? 1 : group; }
};

}  // namespace minference::kernels::cuda
