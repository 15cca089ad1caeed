#include "kernels/attention/cuda/sm90/squares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <set>
#include <vector>

namespace minference::kernels::cuda::sm90 {
namespace {

using Blocks = std::vector<std::int32_t>;

bool all_squares(const SquareLists& lists) {
  if (!lists.may_be_squares()) return false;
  for (std::int32_t n = 0; n < lists.num_before(); ++n)
    if (!lists.is_square(n)) return false;
  return true;
}

// By definition: the upper half lists whole squares up to the diagonal's, and the lower one the same but for the last
// block, which lies behind it.
bool are_squares(const Blocks& lower, const Blocks* upper, std::int32_t diagonal) {
  Blocks whole = lower;
  whole.push_back(diagonal + 1);
  if (upper != nullptr && *upper != whole) return false;
  const std::set<std::int32_t> listed(whole.begin(), whole.end());
  if (listed.count(diagonal) == 0) return false;
  return std::all_of(whole.begin(), whole.end(),
                     [&](std::int32_t block) { return listed.count(block ^ 1) > 0; });
}

TEST(Squares, AreFoundAndListedFromTheDiagonalOn) {
  std::mt19937 random(1);
  int squares = 0, others = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto diagonal = static_cast<std::int32_t>(2 * (random() % 8));
    Blocks upper;
    for (std::int32_t block = 0; block < diagonal; block += 2)
      if (random() % 2 == 0) upper.insert(upper.end(), {block, block + 1});
    upper.insert(upper.end(), {diagonal, diagonal + 1});
    Blocks lower(upper.begin(), upper.end() - 1);
    // Half of the trials or so lose or change a block.
    for (Blocks* list : {&lower, &upper}) {
      if (random() % 3 != 0 || list->empty()) continue;
      const std::size_t at = random() % list->size();
      if (random() % 2 == 0) {
        list->erase(list->begin() + static_cast<std::ptrdiff_t>(at));
      } else if (at > 0 && (*list)[at] - (*list)[at - 1] > 1) {
        --(*list)[at];
      }
    }
    const Blocks* given = random() % 4 == 0 ? nullptr : &upper;
    const SquareLists lists = {lower.data(), static_cast<std::int32_t>(lower.size()),
                               given != nullptr ? upper.data() : nullptr,
                               static_cast<std::int32_t>(upper.size()), diagonal};
    const bool expected = are_squares(lower, given, diagonal);
    ASSERT_EQ(all_squares(lists), expected);
    (expected ? squares : others) += 1;
    if (!expected) continue;
    Blocks down, up;
    for (std::int32_t e = 0; e < lists.num_entries(); ++e) {
      down.push_back(lists.block_of_entry(e, false));
      up.push_back(lists.block_of_entry(e, true));
    }
    Blocks descending = lower;
    descending.push_back(diagonal + 1);
    std::reverse(descending.begin(), descending.end());
    EXPECT_EQ(down, descending);
    // The other way the squares behind the first are the same ones backwards.
    ASSERT_EQ(up.size(), down.size());
    EXPECT_TRUE(std::equal(up.begin(), up.begin() + 2, down.begin()));
    for (std::size_t e = 2; e < up.size(); ++e) EXPECT_EQ(up[e], down[up.size() + 1 - (e ^ 1)]);
  }
  EXPECT_GT(squares, 5000);
  EXPECT_GT(others, 5000);
  std::printf("checked: %d items of squares, %d others\n", squares, others);
}

}  // namespace
}  // namespace minference::kernels::cuda::sm90
