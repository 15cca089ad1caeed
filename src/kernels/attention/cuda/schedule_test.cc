#include "kernels/attention/cuda/schedule.h"

#include <gtest/gtest.h>

#include <vector>

namespace minference::kernels::cuda {
namespace {

// Every item has one place; those of heads that take turns are together, from the last rows to the first, and go in
// rounds of as many as are computed at once.
TEST(Schedule, PlacesEveryItemOnceAndCountsRoundsFromTheFirstOfTheHeadsInTurn) {
  int checked = 0;
  for (const Schedule& schedule :
       {Schedule{2, 4, 37, 4, 8}, Schedule{2, 4, 37, 1, 8}, Schedule{2, 4, 37, 8, 8},
        Schedule{3, 1, 5, 1, 132}, Schedule{1, 7, 64, 1, 132}, Schedule{1, 7, 64, 7, 132}}) {
    const int together = schedule.turns;
    std::vector<bool> taken(static_cast<std::size_t>(schedule.num_items()));
    for (int head = 0; head < schedule.num_kv_heads * schedule.group; ++head) {
      for (int number = 0; number < schedule.items_per_head; ++number) {
        const int place = schedule.place(head, number);
        ASSERT_TRUE(place >= 0 && place < schedule.num_items());
        EXPECT_FALSE(taken[static_cast<std::size_t>(place)]);
        taken[static_cast<std::size_t>(place)] = true;
        EXPECT_EQ(schedule.head(place), head);
        EXPECT_EQ(schedule.number(place), number);
        const int before = (schedule.items_per_head - 1 - number) * together + head % together;
        EXPECT_EQ(place - before, head / together * together * schedule.items_per_head);
        EXPECT_EQ(schedule.round(place), before / schedule.concurrent);
        ++checked;
      }
    }
  }
  EXPECT_EQ(checked, 3 * 2 * 4 * 37 + 3 * 5 + 2 * 7 * 64);
}

}  // namespace
}  // namespace minference::kernels::cuda
