#pragma once

#include <cstdint>

#include "base/host_device.h"

// Block lists made of squares of 128 rows by 128 keys: both halves of an item list the same blocks, in pairs that
// begin at even ones. For the host's tests too; docs/kernels/attention-sm90.md says what they are good for.
namespace minference::kernels::cuda::sm90 {

// Of an item that begins at a multiple of 128 keys: its halves' blocks up to that of their last row, ascending.
struct SquareLists {
  const std::int32_t* lower;
  std::int32_t num_lower;
  const std::int32_t* upper;  // null: this half lies behind the last query
  std::int32_t num_upper;
  std::int32_t diagonal;  // the block of the item's first row, even

  // Whether both halves list the diagonal's square and some more that may be squares.
  MINFERENCE_HD constexpr bool may_be_squares() const {
    if (num_lower % 2 == 0 || lower[num_lower - 1] != diagonal) return false;
    return upper == nullptr || (num_upper == num_lower + 1 && upper[num_upper - 2] == diagonal &&
                                upper[num_upper - 1] == diagonal + 1);
  }
  // Those before the diagonal's.
  MINFERENCE_HD constexpr std::int32_t num_before() const { return num_lower / 2; }
  MINFERENCE_HD constexpr bool is_square(std::int32_t n) const {
    return lower[2 * n] % 2 == 0 && lower[2 * n + 1] == lower[2 * n] + 1 &&
           (upper == nullptr || (upper[2 * n] == lower[2 * n] && upper[2 * n + 1] == lower[2 * n + 1]));
  }

  // Both halves take all entries: the diagonal's square, then the others from the last one down or from the first
  // one up.
  MINFERENCE_HD constexpr std::int32_t num_entries() const { return num_lower + 1; }
  MINFERENCE_HD constexpr std::int32_t block_of_entry(std::int32_t e, bool ascending) const {
    if (e < 2) return diagonal + 1 - e;
    return lower[ascending ? (e - 2) ^ 1 : num_lower - e];
  }
};

}  // namespace minference::kernels::cuda::sm90
