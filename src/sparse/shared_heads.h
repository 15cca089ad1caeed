#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sparse/head_pattern.h"

namespace minference::sparse {

// Which query heads have one index together, and from which pattern it is made. docs/algorithm.md, "One index for a
// group".
struct SharedHeads {
  std::vector<HeadPattern> heads;    // [num_query_heads]; equal among heads that share an index
  std::vector<std::int32_t> leader;  // [num_query_heads]: the first of the heads that have this head's index
  std::vector<std::int32_t> next;    // [num_query_heads]: the next of them after this head, or -1

  bool leads(std::int64_t head) const { return leader[static_cast<std::size_t>(head)] == head; }
};

// Heads [i * group, (i + 1) * group) of one kind of pattern share an index made from the largest of each of their
// budgets; dense heads need none. With a group of 1, every head has an index of its own.
SharedHeads share_within_groups(std::span<const HeadPattern> heads, std::int64_t group);

}  // namespace minference::sparse
