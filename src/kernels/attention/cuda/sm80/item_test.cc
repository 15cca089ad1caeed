#include "kernels/attention/cuda/sm80/item.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/visible_keys.h"
#include "sparse/sparse_index.h"

namespace minference::kernels::cuda::sm80 {
namespace {

using Pairs = std::vector<std::vector<int>>;  // by row of the call: how often each key is computed

// As the kernel walks an item.
void walk(const CallShape& call, const Item& item, Pairs& pairs) {
  const WindowRule window = {item.local, item.sink};
  for (int row = item.first_row; row < item.end_row; ++row) {
    const int position = item.position + row - item.first_row;
    const int limit = key_limit(call.causal, position, call.kv_len);
    const VisibleKeys visible = VisibleKeys::of(position, window, limit, 0);
    for (int tile = 0; tile < item.num_tiles; ++tile) {
      const int start = item.start_of(tile);
      if (start <= -kTileKeys) break;
      const bool whole = sees_all(position, 1, window, limit, start, kTileKeys);
      for (int key = start; key < start + kTileKeys; ++key) {
        if (!whole && !visible.holds(key)) continue;
        ASSERT_TRUE(key >= 0 && key < call.kv_len) << "row " << row << " key " << key;
        ++pairs[row][key];
      }
    }
    for (int i = 0; i < item.num_columns && item.columns[i] < item.key_end; ++i) {
      const int key = item.columns[i];
      const bool covered =
          item.cover != nullptr && covers(item.cover, call.kv_len, key - item.block_position);
      if (!covered && visible.holds(key)) ++pairs[row][key];
    }
  }
}

Pairs expected_pairs(const sparse::SparseIndex& index) {
  Pairs pairs(index.q_len, std::vector<int>(index.kv_len));
  sparse::RowSliceKeys keys;
  for (const sparse::RowSlice& slice : sparse::row_slices(index.q_len, index.heads[0].last_dense_rows)) {
    sparse::keys_of_slice(index, 0, slice, keys);
    for (std::int64_t row = slice.begin; row < slice.end; ++row) {
      const auto count = [&](std::int64_t key) {
        if (keys.rule.allows(sparse::position_of_row(index.q_len, index.kv_len, row), key)) ++pairs[row][key];
      };
      for (const sparse::KeyTile& tile : keys.tiles)
        for (std::int64_t key = tile.begin; key < tile.begin + tile.count; ++key) count(key);
      for (const std::int32_t column : keys.columns) count(column);
    }
  }
  return pairs;
}

// The pairs of the head in `index`, handed to the kernel as the second of two heads.
Pairs pairs_of_items(const sparse::SparseIndex& index) {
  const sparse::HeadIndex& head = index.heads[0];
  const CallShape call = {static_cast<std::int32_t>(index.q_len), static_cast<std::int32_t>(index.kv_len),
                          index.causal};
  constexpr std::size_t kSpare = 3;
  const auto second = [](const std::vector<std::int32_t>& list) {
    std::vector<std::int32_t> rows(2 * (list.size() + kSpare), -1);
    std::copy(list.begin(), list.end(), rows.begin() + static_cast<std::ptrdiff_t>(list.size() + kSpare));
    return rows;
  };
  const std::vector<std::int32_t> tiles = second(head.tiles), columns = second(head.columns);
  const std::vector<std::int32_t> blocks = second(head.key_blocks);
  std::vector<std::int32_t> offsets(head.row_offsets.begin(), head.row_offsets.end());
  offsets.insert(offsets.begin(), head.row_offsets.size(), 0);
  const auto dense_rows = static_cast<std::int32_t>(head.last_dense_rows);
  const sparse::DeviceHead heads[2] = {{},
                                       {.form = head.form,
                                        .num_tiles = static_cast<std::int32_t>(head.tiles.size()),
                                        .num_columns = static_cast<std::int32_t>(head.columns.size()),
                                        .sink = static_cast<std::int32_t>(head.sink),
                                        .local = static_cast<std::int32_t>(head.local)}};
  const sparse::DeviceIndex device = {
      .heads = heads,
      .tiles = tiles.data(),
      .columns = columns.data(),
      .tile_capacity = static_cast<std::int32_t>(head.tiles.size() + kSpare),
      .column_capacity = static_cast<std::int32_t>(head.columns.size() + kSpare),
      .row_offsets = offsets.data(),
      .key_blocks = blocks.data(),
      .block_capacity = static_cast<std::int32_t>(head.key_blocks.size() + kSpare)};
  const std::int64_t words = cover_words(call.kv_len);
  std::vector<std::uint32_t> cover(2 * words);
  for (const std::int32_t start : head.tiles) {
    const CoverBits covered = CoverBits::of_tile(call.kv_len, start);
    for (int i = 0; i < 3; ++i) {
      if (covered.bits[i] != 0) cover[words + covered.first_word + i] |= covered.bits[i];
    }
  }

  Pairs pairs(index.q_len, std::vector<int>(index.kv_len));
  const int num_items = base::divide_up(call.q_len, kRowBlock) + 1;
  for (int number = 0; number < num_items; ++number) {
    const ItemRows rows = ItemRows::of(number, call.q_len, dense_rows);
    if (rows.end > rows.begin) walk(call, Item::of(call, device, cover.data(), words, 1, rows), pairs);
  }
  return pairs;
}

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  int below(int end) { return static_cast<int>(random_() % static_cast<unsigned>(end)); }
  bool chance(int percent) { return below(100) < percent; }

  sparse::SparseIndex index() {
    const int kv_len = 1 + below(400), q_len = chance(40) ? kv_len : 1 + below(kv_len);
    sparse::SparseIndex index{.q_len = q_len, .kv_len = kv_len, .causal = chance(60)};
    sparse::HeadIndex head;
    const sparse::IndexForm forms[] = {sparse::IndexForm::window, sparse::IndexForm::blocks,
                                       sparse::IndexForm::all, sparse::IndexForm::relative};
    head.form = forms[below(index.causal ? 4 : 3)];
    if (head.form == sparse::IndexForm::window) {
      head.local = below(kv_len + 1) * below(2);
      head.sink = below(kv_len + 1) * below(2);
    } else if (head.form == sparse::IndexForm::relative) {
      for (int start = -below(100) * below(2); start > -kv_len && !chance(15);
           start -= kTileKeys + below(90) * below(2))
        head.tiles.push_back(start);
      for (int column = 0; column < kv_len; ++column)
        if (chance(10)) head.columns.push_back(column);
    } else if (head.form == sparse::IndexForm::blocks) {
      head.row_offsets.push_back(0);
      for (int block = 0; block * kRowBlock < q_len; ++block) {
        for (int key_block = 0; key_block * kTileKeys < kv_len; ++key_block)
          if (chance(40)) head.key_blocks.push_back(key_block);
        head.row_offsets.push_back(static_cast<std::int64_t>(head.key_blocks.size()));
      }
    }
    if (chance(40)) head.last_dense_rows = below(q_len + 10);
    index.heads.push_back(head);
    return index;
  }

 private:
  std::mt19937 random_;
};

TEST(Sm80Item, ItemsComputeThePairsOfTheIndexEachOnce) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    const sparse::SparseIndex index = Draw(seed).index();
    const Pairs expected = expected_pairs(index), actual = pairs_of_items(index);
    ASSERT_EQ(actual, expected) << "seed " << seed << " form " << static_cast<int>(index.heads[0].form)
                                << " q_len " << index.q_len << " kv_len " << index.kv_len << " causal "
                                << index.causal << " local " << index.heads[0].local << " sink "
                                << index.heads[0].sink << " dense rows " << index.heads[0].last_dense_rows;
  }
}

TEST(Sm80Item, EveryRowOfAHeadIsInOneItem) {
  for (int q_len = 1; q_len < 200; ++q_len) {
    for (int dense_rows : {0, 1, 63, 64, 65, 100, 128, 300}) {
      std::vector<int> seen(q_len);
      for (int number = 0; number <= base::divide_up(q_len, kRowBlock); ++number) {
        const ItemRows rows = ItemRows::of(number, q_len, dense_rows);
        for (int row = rows.begin; row < rows.end; ++row) {
          ++seen[row];
          EXPECT_EQ(rows.dense, row >= q_len - dense_rows);
          EXPECT_EQ(rows.origin, row / kRowBlock * kRowBlock);
        }
      }
      EXPECT_EQ(seen, std::vector<int>(q_len, 1)) << q_len << " " << dense_rows;
    }
  }
}

}  // namespace
}  // namespace minference::kernels::cuda::sm80
