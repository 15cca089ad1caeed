#pragma once

#include <cstdint>

#include "base/arithmetic.h"
#include "base/host_device.h"

// In which order an item loads the key blocks of its two row blocks when each has a list of its own, and which of
// them a half takes in which step. For the host's tests too; docs/kernels/attention-sm90.md says why it is so.
namespace minference::kernels::cuda::sm90 {

// Halves walk side by side, two places a step, and what a step takes lies close together:
//
//   near blocks, those that may reach the item's rows, in a half's first steps, which mask them;
//   shared blocks, in both lists, taken by both halves in the same step or the next one;
//   own blocks, in one list only, one of the lower half after one of the upper half, then the longer list's rest.
//
// A half that has nothing to do for more than one step takes blank entries, which compute nothing.
struct PairedLists {
  static constexpr int kNearBlocks = 3;

  std::int32_t near[2];  // bit i: the half lists block `first near block` + i
  std::int32_t shared;   // blocks before the near ones that both halves list
  std::int32_t own[2];   // .. that this half lists alone

  // Places of the near blocks. So that no half is more than one place ahead of the other, one near block is taken
  // twice, the second time masked, or a blank stands for none.
  MINFERENCE_HD constexpr std::int32_t near_places(int half) const {
    const std::int32_t count = count_bits(near[half]);
    return count + 2 <= count_bits(near[1 - half]) ? 2 : count;
  }
  MINFERENCE_HD constexpr bool begins_blank(int half) const {
    return near[half] == 0 && near_places(half) > 0;
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
  MINFERENCE_HD constexpr bool nothing() const { return places(0) + places(1) == 0; }

  // Places as the kernel counts them.
  MINFERENCE_HD constexpr std::int32_t all_places(int half) const {
    const std::int32_t blank = blank_steps(half);
    return blank == 0 ? places(half) : 2 * (steps(half) + blank);
  }

  // Numbers of entries. near_entry(i): of block `first near block` + i.
  MINFERENCE_HD constexpr std::int32_t near_entry(int i) const {
    return first_blanks() + count_bits((near[0] | near[1]) >> (i + 1));
  }
  // The n-th, in descending order.
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
  static MINFERENCE_HD constexpr std::int32_t count_bits(std::int32_t bits) {
    return (bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1);
  }
  // The blank that stands for near blocks is entry 0.
  MINFERENCE_HD constexpr std::int32_t first_blanks() const { return begins_blank(0) || begins_blank(1); }
};

// Words of `order` and of `entries` that an item whose halves list so many blocks in all needs at most; even.
MINFERENCE_HD constexpr std::int64_t words_of_paired_lists(std::int64_t blocks) {
  return 2 * blocks + 8;
}

}  // namespace minference::kernels::cuda::sm90
