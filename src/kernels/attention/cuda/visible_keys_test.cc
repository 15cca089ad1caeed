#include "kernels/attention/cuda/visible_keys.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace minference::kernels::cuda {
namespace {

constexpr int kKeys = 7;  // of a tile

constexpr int kLength = 23;  // keys in all

struct Row {
  int position;
  bool causal;
  WindowRule window;

  int limit() const { return key_limit(causal, position, kLength); }
  bool attends(int key) const {
    if (key < 0 || key >= kLength || (causal && key > position)) return false;
    return window.local < 0 || std::abs(position - key) < window.local || key < window.sink;
  }
};

// Tiles before key 0, across it, at the diagonal, across the last key and behind it, for every window near the row.
template <class Body>
void for_every_tile(Body&& body) {
  for (int position = 0; position < 20; ++position) {
    for (int local : {-1, 0, 1, 2, 5, 19, 20, 40}) {
      for (int sink : {0, 1, 3, 8, 40}) {
        if (local < 0 && sink > 0) continue;
        for (const bool causal : {true, false})
          for (int start = -2 * kKeys; start < 30; ++start) body(Row{position, causal, {local, sink}}, start);
      }
    }
  }
}

TEST(VisibleKeys, HoldsWhatTheDefinitionSays) {
  for_every_tile([](const Row& row, int start) {
    const VisibleKeys visible = VisibleKeys::of(row.position, row.window, row.limit(), start);
    for (int key = 0; key < kKeys; ++key) {
      ASSERT_EQ(visible.holds(key), row.attends(start + key))
          << "position " << row.position << " causal " << row.causal << " local " << row.window.local
          << " sink " << row.window.sink << " start " << start << " key " << key;
    }
  });
}

TEST(VisibleKeys, PairsSayWhatItHolds) {
  for (int position : {0, 1, 7, 8, 40, 200}) {
    for (int local : {-1, 1, 5, 33, 60}) {
      for (int sink : {0, 3, 16}) {
        for (int first_key = -70; first_key < 210; ++first_key) {
          const VisibleKeys visible =
              VisibleKeys::of(position, {local, local < 0 ? 0 : sink}, position + 1, first_key);
          for (int j = 0; j < 8; ++j)
            for (int e = 0; e < 4; ++e)
              ASSERT_EQ(visible.pairs() >> (4 * j + e) & 1u, e < 2 && visible.holds(8 * j + e) ? 1u : 0u)
                  << "position " << position << " local " << local << " sink " << sink << " first_key "
                  << first_key;
        }
      }
    }
  }
}

TEST(VisibleKeys, NothingBeforeKeyZeroIsVisible) {
  const VisibleKeys visible = VisibleKeys::of(199, {-1, 0}, 200, -57);
  EXPECT_FALSE(visible.holds(56));
  EXPECT_TRUE(visible.holds(57));
}

TEST(SeesAll, NeverPassesATileThatNeedsAMask) {
  constexpr int kRows = 3;
  int passed[2] = {0, 0};
  for_every_tile([&](const Row& first, int start) {
    if (!sees_all(first.position, kRows, first.window, first.limit(), start, kKeys)) return;
    ++passed[first.causal];
    for (int i = 0; i < kRows; ++i) {
      const Row row = {first.position + i, first.causal, first.window};
      for (int key = start; key < start + kKeys; ++key) ASSERT_TRUE(row.attends(key));
    }
  });
  EXPECT_GT(passed[0], 100);
  EXPECT_GT(passed[1], 100);
}

}  // namespace
}  // namespace minference::kernels::cuda
