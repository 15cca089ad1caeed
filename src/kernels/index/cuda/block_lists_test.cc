#include "sparse/block_lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "base/arithmetic.h"
#include "kernels/index/index.h"

namespace minference::sparse {
namespace {

// The CPU's index of random means decides, and the rule says beforehand how much it will be.
TEST(BlockLists, SayWhatABlockSparseHeadKeepsBeforeItIsChosen) {
  constexpr std::int64_t kDim = 8;
  std::mt19937 random(1);
  const auto below = [&](std::int64_t end) { return static_cast<std::int64_t>(random() % end); };
  int heads_with_lists = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const std::int64_t kv_len = 1 + below(900), q_len = 1 + below(kv_len), top_k = below(12);
    const std::int64_t row_blocks = base::divide_up(q_len, kRowBlock);
    const auto means = [&](std::int64_t blocks) {
      std::vector<float> values(static_cast<std::size_t>(blocks * kDim));
      std::generate(values.begin(), values.end(), [&] { return static_cast<float>(below(7) - 3); });
      return values;
    };
    const std::vector<float> query = means(row_blocks), key = means(base::divide_up(kv_len, kKeyTile));
    HeadIndex head = kernels::index_block_sparse(query.data(), key.data(), kDim, top_k, q_len, kv_len, true);
    if (head.form == IndexForm::all) continue;
    ++heads_with_lists;
    for (std::int64_t b = 0; b < row_blocks; ++b) {
      const BlockList list = BlockList::of(q_len, kv_len, b, top_k);
      const std::set<std::int32_t> kept(head.key_blocks.begin() + head.row_offsets[b],
                                        head.key_blocks.begin() + head.row_offsets[b + 1]);
      ASSERT_EQ(list.kept, std::ssize(kept));
      int forced = 0;
      for (std::int32_t j = 0; j < list.candidates; ++j) {
        if (!list.is_forced(j)) continue;
        ++forced;
        EXPECT_TRUE(kept.contains(j));
      }
      EXPECT_EQ(list.forced, forced);
      EXPECT_LT(*kept.rbegin(), list.candidates);
    }
    head.last_dense_rows = below(3) == 0 ? below(q_len + 1) : 0;
    const SparseIndex index{q_len, kv_len, true, {head}};
    const HeadWork expected = work_of(index, 0);
    const BlockWork work = work_of_blocks(q_len, kv_len, top_k, head.last_dense_rows);
    ASSERT_EQ(work.row_slices, expected.row_slices);
    ASSERT_EQ(work.tiles, expected.tiles) << "q_len " << q_len << " kv_len " << kv_len << " top_k " << top_k;
    ASSERT_EQ(work.pairs, count_pairs(index, 0));
  }
  EXPECT_GT(heads_with_lists, 1000);
}

}  // namespace
}  // namespace minference::sparse
