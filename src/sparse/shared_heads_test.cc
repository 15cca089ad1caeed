#include "sparse/shared_heads.h"

#include <gtest/gtest.h>

namespace minference::sparse {
namespace {

using Heads = std::vector<HeadPattern>;
using List = std::vector<std::int32_t>;

HeadPattern vertical_slash(std::int32_t vertical, std::int32_t slash, std::int32_t last_dense_rows = 0) {
  return {Pattern::vertical_slash, {vertical, slash}, last_dense_rows};
}

TEST(SharedHeads, HeadsOfOneKindShareTheLargestOfEachBudget) {
  const Heads heads = {vertical_slash(1000, 60), vertical_slash(30, 6096, 5), vertical_slash(500, 700),
                       vertical_slash(40, 50)};
  const SharedHeads shared = share_within_groups(heads, 2);
  EXPECT_EQ(shared.leader, (List{0, 0, 2, 2}));
  EXPECT_EQ(shared.next, (List{1, -1, 3, -1}));
  EXPECT_EQ(shared.heads, (Heads{vertical_slash(1000, 6096, 5), vertical_slash(1000, 6096, 5),
                                 vertical_slash(500, 700), vertical_slash(500, 700)}));
}

TEST(SharedHeads, OtherKindsAndDenseHeadsKeepTheirs) {
  const HeadPattern dense, adaptive{Pattern::adaptive, {0, 0}, 0, 900000},
      more{Pattern::adaptive, {0, 0}, 0, 990000}, window{Pattern::a_shape, {8, 512}},
      wider{Pattern::a_shape, {4, 1024}}, blocks{Pattern::block_sparse, {9, 0}};
  const Heads heads = {dense, adaptive, window, vertical_slash(30, 50), dense, more, wider, blocks};
  const SharedHeads shared = share_within_groups(heads, 8);
  EXPECT_EQ(shared.leader, (List{0, 1, 2, 3, 4, 1, 2, 7}));
  EXPECT_EQ(shared.next, (List{-1, 5, 6, -1, -1, -1, -1, -1}));
  const HeadPattern widest{Pattern::a_shape, {8, 1024}};
  EXPECT_EQ(shared.heads, (Heads{dense, more, widest, vertical_slash(30, 50), dense, more, widest, blocks}));
}

TEST(SharedHeads, AGroupOfOneSharesNothing) {
  const Heads heads = {vertical_slash(1000, 60), vertical_slash(30, 6096), vertical_slash(30, 6096)};
  const SharedHeads alone = share_within_groups(heads, 1);
  EXPECT_EQ(alone.heads, heads);
  EXPECT_EQ(alone.leader, (List{0, 1, 2}));
  EXPECT_EQ(alone.next, (List{-1, -1, -1}));
}

}  // namespace
}  // namespace minference::sparse
