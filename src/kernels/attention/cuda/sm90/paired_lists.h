#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"

// In which order an item loads the key blocks of its two row blocks when each has a list of its own, and which of
// them a half takes in which step. For the host's tests too; docs/kernels/attention-sm90.md says why it is so.
namespace minference::kernels::cuda::sm90 {

// How many blocks the two halves list. "Near" ones may reach the item's rows.
struct ListedBlocks {
  static constexpr int kNearBlocks = 3;

  std::int32_t near[2];  // bit i: the half lists block `first near block` + i
  std::int32_t shared;   // blocks before the near ones that both halves list
  std::int32_t own[2];   // .. that this half lists alone

  MINFERENCE_HD constexpr bool nothing() const {
    return (near[0] | near[1]) == 0 && shared + own[0] + own[1] == 0;
  }

 protected:
  static MINFERENCE_HD constexpr std::int32_t count_bits(std::int32_t bits) {
    return (bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1);
  }
};

// Halves walk side by side, so many places a step, and what a step takes lies close together:
//
//   near blocks, in a half's first steps, which mask them;
//   shared blocks, in both lists, taken by both halves in the same step or the next one;
//   own blocks, in one list only, of the lower and the upper half in turn, then the longer list's rest.
//
// A half that has nothing to do takes blank entries, which compute nothing.
template <int TilesAStep>
struct PairedLists;

template <>
struct PairedLists<2> : ListedBlocks {
  // Places of the near blocks. So that no half is more than one place ahead of the other, one near block is taken
  // twice, the second time masked, or a blank stands for none.
  MINFERENCE_HD constexpr std::int32_t near_places(int half) const {
    const std::int32_t count = count_bits(near[half]);
    return count + 2 <= count_bits(near[1 - half]) ? 2 : count;
  }
  // The first of them that are blank.
  MINFERENCE_HD constexpr std::int32_t begin_blanks(int half) const {
    return near[half] == 0 && near_places(half) > 0 ? 1 : 0;
  }

  // A half's places, the last one of an odd number alone in its step, and its steps before the blank ones.
  MINFERENCE_HD constexpr std::int32_t places(int half) const {
    return near_places(half) + shared + own[half];
  }
  MINFERENCE_HD constexpr std::int32_t steps(int half) const { return (places(half) + 1) / 2; }
  // The lower half may have one step less than the upper one.
  MINFERENCE_HD constexpr std::int32_t blank_steps(int half) const {
    const std::int32_t least = half == 0 ? steps(1) - 1 : steps(0);
    return base::max(base::max(least, 1) - steps(half), 0);
  }
  MINFERENCE_HD constexpr std::int32_t lower_late() const { return 0; }
  // Steps before this one need no mask, but for the first. aligned: no row block begins within a key block.
  MINFERENCE_HD constexpr std::int32_t plain_steps(int half, bool /*aligned*/) const {
    return places(half) / 2;
  }

  // Places as the kernel counts them.
  MINFERENCE_HD constexpr std::int32_t all_places(int half) const {
    const std::int32_t blank = blank_steps(half);
    return blank == 0 ? places(half) : 2 * (steps(half) + blank);
  }

  // Numbers of entries. near_entry(half, i): of block `first near block` + i, for the halves near_halves(half, i).
  MINFERENCE_HD constexpr std::int32_t begin_blank_entry(int /*half*/, std::int32_t n) const { return n; }
  MINFERENCE_HD constexpr std::int32_t near_entry(int /*half*/, int i) const {
    return first_blanks() + count_bits((near[0] | near[1]) >> (i + 1));
  }
  MINFERENCE_HD constexpr std::int32_t near_halves(int /*half*/, int i) const {
    return (near[0] >> i & 1) | (near[1] >> i & 1) << 1;
  }
  // The n-th, from the last one down or from the first one up.
  MINFERENCE_HD constexpr std::int32_t shared_entry(std::int32_t n) const {
    return first_blanks() + count_bits(near[0] | near[1]) + n;
  }
  MINFERENCE_HD constexpr std::int32_t own_entry(int half, std::int32_t n) const {
    const std::int32_t first = shared_entry(shared), pairs = base::min(own[0], own[1]);
    if (n < pairs) return first + 2 * n + 1 - half;
    const std::int32_t step = (near_places(half) + shared + n) / 2;
    const std::int32_t blank = base::clamp(step + 1 - steps(1 - half), 0, blank_steps(1 - half));
    return first + pairs + n + blank;
  }
  // Of the n-th blank step: just before what the other half takes in it.
  MINFERENCE_HD constexpr std::int32_t blank_entry(int half, std::int32_t n) const {
    const std::int32_t pairs = base::min(own[0], own[1]);
    const std::int32_t own_before = 2 * (steps(half) + n) - near_places(1 - half) - shared;
    return shared_entry(shared) + pairs + base::max(own_before, pairs) + n;
  }
  MINFERENCE_HD constexpr std::int32_t num_entries() const {
    return shared_entry(shared) + own[0] + own[1] + blank_steps(0) + blank_steps(1);
  }

 private:
  // The blank that stands for near blocks is entry 0.
  MINFERENCE_HD constexpr std::int32_t first_blanks() const {
    return base::max(begin_blanks(0), begin_blanks(1));
  }
};

// No near block is shared, blank entries are own blocks that are not there, and the halves' own and near blocks
// alternate: whatever a half takes, the other one takes its neighbour in the same turn or the next one.
template <>
struct PairedLists<1> : ListedBlocks {
  // The upper half has at most one place more than the lower one.
  MINFERENCE_HD constexpr std::int32_t begin_blanks(int half) const {
    return half == 0 ? base::max(count_bits(near[1]) - 1 - count_bits(near[0]), 0) : 0;
  }
  MINFERENCE_HD constexpr std::int32_t near_places(int half) const {
    return begin_blanks(half) + count_bits(near[half]);
  }

  MINFERENCE_HD constexpr std::int32_t places(int half) const {
    return near_places(half) + shared + own[half];
  }
  MINFERENCE_HD constexpr std::int32_t steps(int half) const { return places(half); }
  // The lower half may have one step less than the upper one.
  MINFERENCE_HD constexpr std::int32_t blank_steps(int half) const {
    const std::int32_t least = half == 0 ? steps(1) - 1 : steps(0);
    return base::max(base::max(least, 1) - steps(half), 0);
  }
  // So that shared blocks are taken in the same turn.
  MINFERENCE_HD constexpr std::int32_t lower_late() const { return near_places(1) > near_places(0) ? 1 : 0; }
  // Only the first block reaches the rows of an aligned half.
  MINFERENCE_HD constexpr std::int32_t plain_steps(int half, bool aligned) const {
    return aligned ? places(half) : 0;
  }
  MINFERENCE_HD constexpr std::int32_t all_places(int half) const { return places(half) + blank_steps(half); }

  MINFERENCE_HD constexpr std::int32_t begin_blank_entry(int half, std::int32_t n) const {
    return n + base::min(n + 1 - half, near_places(1 - half));
  }
  MINFERENCE_HD constexpr std::int32_t near_entry(int half, int i) const {
    return begin_blank_entry(half, begin_blanks(half) + count_bits(near[half] >> (i + 1)));
  }
  MINFERENCE_HD constexpr std::int32_t near_halves(int half, int /*i*/) const { return 1 << half; }
  MINFERENCE_HD constexpr std::int32_t shared_entry(std::int32_t n) const {
    return near_places(0) + near_places(1) + n;
  }
  MINFERENCE_HD constexpr std::int32_t own_entry(int half, std::int32_t n) const {
    const std::int32_t first = shared_entry(shared), pairs = base::min(own_places(0), own_places(1));
    // The lower half's turn is the first, unless the upper half comes to its own blocks two turns before.
    const int second = near_places(0) - near_places(1) < 2 ? 1 : 0;
    return n < pairs ? first + 2 * n + (half == second ? 1 : 0) : first + pairs + n;
  }
  MINFERENCE_HD constexpr std::int32_t blank_entry(int half, std::int32_t n) const {
    return own_entry(half, own[half] + n);
  }
  MINFERENCE_HD constexpr std::int32_t num_entries() const {
    return shared_entry(shared) + own_places(0) + own_places(1);
  }

 private:
  MINFERENCE_HD constexpr std::int32_t own_places(int half) const { return own[half] + blank_steps(half); }
};

// Words of `order` and of `entries` that an item whose halves list so many blocks in all needs at most; even.
MINFERENCE_HD constexpr std::int64_t words_of_paired_lists(std::int64_t blocks) {
  return 2 * blocks + 8;
}

}  // namespace minference::kernels::cuda::sm90
