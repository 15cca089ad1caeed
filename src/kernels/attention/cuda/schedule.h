#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace minference::kernels::cuda {

// The order in which the work items of a call, so many for each query head, are computed: by KV head, so that
// its keys stay in L2; then the longest first, a head's last rows; then the heads of the group.
struct Schedule {
  std::int32_t num_kv_heads;
  std::int32_t group;           // query heads a KV head
  std::int32_t items_per_head;  // numbered from the call's first rows to its last

  MINFERENCE_HD constexpr std::int32_t num_items() const { return num_kv_heads * group * items_per_head; }
  MINFERENCE_HD constexpr std::int32_t head(std::int32_t place) const {
    return place / (group * items_per_head) * group + place % group;
  }
  MINFERENCE_HD constexpr std::int32_t number(std::int32_t place) const {
    return items_per_head - 1 - place % (group * items_per_head) / group;
  }
  MINFERENCE_HD constexpr std::int32_t place(std::int32_t head_index, std::int32_t number_in_head) const {
    return head_index / group * group * items_per_head + (items_per_head - 1 - number_in_head) * group +
           head_index % group;
  }
};

}  // namespace minference::kernels::cuda
