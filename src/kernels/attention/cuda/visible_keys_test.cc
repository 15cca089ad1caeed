#include "kernels/attention/cuda/visible_keys.h"

#include <gtest/gtest.h>

namespace minference::kernels::cuda {
namespace {

constexpr int kKeys = 7;  // of a tile

bool attends(int position, WindowRule window, int key) {
  return key >= 0 && key <= position &&
         (window.local < 0 || position - key < window.local || key < window.sink);
}

// Tiles before key 0, across it, at the diagonal and behind it, for every window near the row.
template <class Body>
void for_every_tile(Body&& body) {
  for (int position = 0; position < 20; ++position) {
    for (int local : {-1, 0, 1, 2, 5, 19, 20, 40}) {
      for (int sink : {0, 1, 3, 8, 40}) {
        if (local < 0 && sink > 0) continue;
        for (int start = -2 * kKeys; start < 30; ++start) body(position, WindowRule{local, sink}, start);
      }
    }
  }
}

TEST(VisibleKeys, HoldsWhatTheDefinitionSays) {
  for_every_tile([](int position, WindowRule window, int start) {
    const VisibleKeys visible = VisibleKeys::of(position, window, start);
    for (int key = 0; key < kKeys; ++key) {
      ASSERT_EQ(visible.holds(key), attends(position, window, start + key))
          << "position " << position << " local " << window.local << " sink " << window.sink << " start "
          << start << " key " << key;
    }
  });
}

TEST(VisibleKeys, NothingBeforeKeyZeroIsVisible) {
  const VisibleKeys visible = VisibleKeys::of(199, {-1, 0}, -57);
  EXPECT_FALSE(visible.holds(56));
  EXPECT_TRUE(visible.holds(57));
}

TEST(SeesAll, NeverPassesATileThatNeedsAMask) {
  constexpr int kRows = 3;
  int passed = 0;
  for_every_tile([&](int position, WindowRule window, int start) {
    if (!sees_all(position, kRows, window, start, kKeys)) return;
    ++passed;
    for (int row = position; row < position + kRows; ++row) {
      for (int key = start; key < start + kKeys; ++key) ASSERT_TRUE(attends(row, window, key));
    }
  });
  EXPECT_GT(passed, 100);
}

}  // namespace
}  // namespace minference::kernels::cuda
