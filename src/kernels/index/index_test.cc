#include "kernels/index/index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace minference {
namespace {

using sparse::HeadIndex;
using sparse::IndexForm;
using sparse::RowSlice;
using sparse::RowSliceKeys;
using sparse::SparseIndex;

using Members = std::vector<std::int32_t>;

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ErrorCode::invalid_argument);
    return error.what();
  }
  return "no error";
}

// ---- Forms ------------------------------------------------------------------------------------------------

TEST(VerticalSlash, TilesCoverTheBandsOfOffsetsFromTheRight) {
  const auto tiles = [](const Members& offsets) {
    return kernels::index_vertical_slash({}, offsets, 4096, 4096, true).tiles;
  };
  EXPECT_EQ(tiles({}), (Members{}));
  EXPECT_EQ(tiles({0}), (Members{0}));
  EXPECT_EQ(tiles({0, 0, 1}), (Members{0, -64}));       // key -1 is left over, and its tile is [-64, -1]
  EXPECT_EQ(tiles({63, 0, 64}), (Members{0, -64}));     // [-64, 64) is two tiles
  EXPECT_EQ(tiles({100, 103}), (Members{-100, -164}));  // [-103, -36): 67 keys
  EXPECT_EQ(tiles({3000, 10}), (Members{-10, -3000}));
  EXPECT_EQ(tiles({200, 73, 0}), (Members{0, -73, -200}));  // [-73, -9) starts a tile of its own
}

TEST(VerticalSlash, NegativeOffsetsReachKeysRightOfTheDiagonal) {
  EXPECT_EQ(kernels::index_vertical_slash({}, Members{-5, 10}, 100, 100, false).tiles, (Members{5, -59}));
}

TEST(VerticalSlash, ColumnsAreSortedAndUnique) {
  EXPECT_EQ(kernels::index_vertical_slash(Members{9, 3, 9, 0}, {}, 10, 10, true).columns, (Members{0, 3, 9}));
}

TEST(VerticalSlash, MembersOutsideTheCacheAreRefused) {
  const auto build = [](const Members& columns, const Members& offsets, bool causal) {
    return refusal([&] { kernels::index_vertical_slash(columns, offsets, 50, 100, causal); });
  };
  EXPECT_EQ(build({0, 99, 100}, {}, true), "columns[2] must be in [0, 100), got 100");
  EXPECT_EQ(build({-1}, {}, true), "columns[0] must be in [0, 100), got -1");
  EXPECT_EQ(build({}, {0, 100}, true), "offsets[1] must be in [0, 100), got 100");
  EXPECT_EQ(build({}, {-1}, true), "offsets[0] must be in [0, 100), got -1");
  EXPECT_EQ(build({}, {-49, -50}, false), "offsets[1] must be in [-49, 100), got -50");
  EXPECT_EQ(build({}, {-49, 99}, false), "no error");
}

TEST(Index, LengthsAreChecked) {
  const auto build = [](std::int64_t q_len, std::int64_t kv_len, bool causal) {
    return refusal([&] { kernels::index_vertical_slash({}, {}, q_len, kv_len, causal); });
  };
  EXPECT_EQ(build(-1, 10, true), "q_len must be in [0, 2147483520], got -1");
  EXPECT_EQ(build(1, std::int64_t{1} << 31, true), "kv_len must be in [0, 2147483520], got 2147483648");
  EXPECT_EQ(build(11, 10, true), "q_len must be at most kv_len (10), got 11");
  EXPECT_EQ(build(11, 10, false), "no error");
  EXPECT_EQ(build(0, 0, true), "no error");
  EXPECT_EQ(refusal([] { kernels::index_a_shape(-1, 0); }), "sink must be at least 0, got -1");
  EXPECT_EQ(refusal([] { kernels::index_a_shape(0, -1); }), "local must be at least 0, got -1");
  EXPECT_EQ(refusal([] { kernels::index_block_sparse(nullptr, nullptr, 8, -1, 1, 1, true); }),
            "top_k must be at least 0, got -1");
}

TEST(Index, TheLargestLengthsDoNotOverflow) {
  const std::int64_t length = 2147483520;
  const Members ends = {0, static_cast<std::int32_t>(length - 1)};
  SparseIndex index{.q_len = length, .kv_len = length, .causal = true, .heads = {}};
  index.heads.push_back(kernels::index_vertical_slash(ends, ends, length, length, true));
  index.heads.push_back(kernels::index_a_shape(std::numeric_limits<std::int64_t>::max(), 0));
  index.heads.push_back(kernels::index_a_shape(0, std::numeric_limits<std::int64_t>::max()));
  const std::int64_t all = length / 2 * (length + 1);
  EXPECT_EQ(sparse::count_all_pairs(length, length, true), all);
  EXPECT_EQ(sparse::count_pairs(index, 1), all);
  EXPECT_EQ(sparse::count_pairs(index, 2), all);
  RowSliceKeys keys;
  const RowSlice last{.block = length / 64 - 1, .begin = length - 64, .end = length};
  sparse::keys_of_slice(index, 0, last, keys);
  ASSERT_EQ(keys.tiles.size(), 2u);
  EXPECT_EQ(keys.tiles[0].begin, length - 64);
  EXPECT_EQ(keys.tiles[1].begin, 0);  // [-63, 0] before it is clipped
  EXPECT_EQ(keys.tiles[1].count, 1);
  sparse::keys_of_slice(index, 2, {.block = 0, .begin = 0, .end = 64}, keys);
  ASSERT_EQ(keys.tiles.size(), 1u);
  EXPECT_EQ(keys.tiles[0].count, 64);
}

TEST(KeysOfSlice, APartOfARowBlockHasTheTilesOfTheWholeBlock) {
  SparseIndex index{.q_len = 256, .kv_len = 300, .causal = true, .heads = {}};
  index.heads.push_back(kernels::index_vertical_slash(Members{0, 120, 150}, Members{0, 100}, 256, 300, true));
  RowSliceKeys keys;
  // Rows 64 .. 127 stand at 108 .. 171: tiles [108, 172) and [8, 72). Rows 70 .. 80 stand at 114 .. 124.
  sparse::keys_of_slice(index, 0, {.block = 1, .begin = 70, .end = 81}, keys);
  ASSERT_EQ(keys.tiles.size(), 2u);
  EXPECT_EQ(keys.tiles[0].begin, 108);
  EXPECT_EQ(keys.tiles[0].count, 124 - 108 + 1);
  EXPECT_TRUE(keys.tiles[0].masked);
  EXPECT_EQ(keys.tiles[1].begin, 8);
  EXPECT_EQ(keys.tiles[1].count, 64);
  EXPECT_FALSE(keys.tiles[1].masked);
  EXPECT_EQ(keys.columns, (Members{0}));
  EXPECT_FALSE(keys.columns_masked);
}

TEST(BlockSparse, AsManyAsThereAreIsEveryPair) {
  const std::vector<float> pooled(4, 1.0f);
  EXPECT_EQ(kernels::index_block_sparse(pooled.data(), pooled.data(), 1, 4, 200, 200, true).form,
            IndexForm::all);
  EXPECT_EQ(kernels::index_block_sparse(pooled.data(), pooled.data(), 1, 3, 200, 200, true).form,
            IndexForm::blocks);
}

TEST(BlockSparse, KeepsTheDiagonalTheFirstBlockAndThenTheBest) {
  // Blocks 0 .. 5; the call is the last two row blocks, which straddle key blocks 3 | 4 and 4 | 5.
  const std::vector<float> query = {1.0f, -1.0f}, key = {0.0f, 2.0f, 2.0f, 1.0f, 9.0f, 9.0f};
  const auto index = kernels::index_block_sparse(query.data(), key.data(), 1, 4, 128, 350, true);
  EXPECT_EQ(index.row_offsets, (std::vector<std::int64_t>{0, 4, 8}));
  EXPECT_EQ(index.key_blocks, (Members{0, 1, 3, 4, 0, 3, 4, 5}));
  const auto forced = kernels::index_block_sparse(query.data(), key.data(), 1, 0, 128, 350, true);
  EXPECT_EQ(forced.key_blocks, (Members{0, 3, 4, 0, 4, 5}));
}

TEST(BlockSparse, NaNScoresComeLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> query(5, 1.0f), key = {0.0f, nan, -1e30f, nan, 0.0f};
  const auto index = kernels::index_block_sparse(query.data(), key.data(), 1, 3, 64, 320, true);
  EXPECT_EQ(index.key_blocks, (Members{0, 2, 4}));
}

// Selections on real-valued scores, against double precision: a kept block may score less than a dropped one
// only within the rounding of a single-precision dot product.
TEST(BlockSparse, SelectionAgreesWithDoublePrecision) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 200; ++i) {
    const std::int64_t dim = 1 + random() % 140, kv_len = 700 + random() % 3000,
                       q_len = 1 + random() % kv_len;
    const std::int64_t key_blocks = (kv_len + 63) / 64, top_k = random() % key_blocks;
    const bool causal = i % 3 != 0;
    std::vector<float> query((q_len + 63) / 64 * dim), key(key_blocks * dim);
    for (float& x : query) x = normal(random);
    for (float& x : key) x = normal(random);
    const auto index =
        kernels::index_block_sparse(query.data(), key.data(), dim, top_k, q_len, kv_len, causal);
    for (std::int64_t b = 0; b * 64 < q_len; ++b) {
      const std::int64_t first = kv_len - q_len + 64 * b, last = std::min(first + 63, kv_len - 1);
      std::vector<bool> kept(key_blocks);
      for (auto n = index.row_offsets[b]; n < index.row_offsets[b + 1]; ++n)
        kept.at(index.key_blocks[n]) = true;
      double worst_kept = INFINITY, best_dropped = -INFINITY, magnitude = 0;
      std::int64_t num_kept = 0, num_forced = 0, candidates = 0;
      for (std::int64_t j = 0; j < key_blocks && (!causal || 64 * j <= last); ++j) {
        double score = 0, size = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
          const double product = static_cast<double>(query[b * dim + d]) * key[j * dim + d];
          score += product;
          size += std::abs(product);
        }
        ++candidates;
        num_kept += kept[j];
        magnitude = std::max(magnitude, size);
        if (j == 0 || (64 * j <= last && 64 * j + 63 >= first)) {
          ++num_forced;
          ASSERT_TRUE(kept[j]);
        } else if (kept[j]) {
          worst_kept = std::min(worst_kept, score);
        } else {
          best_dropped = std::max(best_dropped, score);
        }
      }
      ASSERT_EQ(num_kept, std::min(candidates, std::max(top_k, num_forced)));
      ASSERT_EQ(num_kept, index.row_offsets[b + 1] - index.row_offsets[b]);
      ASSERT_LE(best_dropped, worst_kept + 1e-6 * magnitude) << "row block " << b;
    }
  }
}

// ---- A million tokens -------------------------------------------------------------------------------------

constexpr std::int64_t kMillion = 1 << 20;

// `count` members of [0, kMillion) in runs of `run`, each at a random place; or, `apart`, evenly spread with
// no two closer than 65, so that every offset costs a tile of its own.
Members place(std::mt19937& random, std::int64_t count, std::int64_t run, bool apart) {
  Members members = {0};
  if (apart) {
    for (std::int64_t i = 1; i < count; ++i)
      members.push_back(static_cast<std::int32_t>(i * (kMillion / count)));
    return members;
  }
  while (std::ssize(members) < count) {
    const auto begin = static_cast<std::int32_t>(random() % kMillion);
    for (std::int64_t i = 0; i < run && std::ssize(members) < count; ++i) {
      members.push_back(static_cast<std::int32_t>((begin + i) % kMillion));
    }
  }
  return members;
}

// The pairs of one row block, straight from the definition of tiles and columns.
std::vector<std::uint8_t> paint_row_block(const Members& columns, const Members& offsets,
                                          std::int64_t position) {
  const std::int64_t shift = kMillion + 64;  // relative key r is element r + shift
  std::vector<std::uint8_t> wanted(shift + 64, 0), in_tile(shift + 64, 0), keys(kMillion, 0);
  for (const std::int64_t s : offsets) std::fill_n(wanted.begin() + shift - s, 64, 1);
  for (std::int64_t x = shift + 63; x >= 63; --x) {
    if (wanted[x] && !in_tile[x]) std::fill_n(in_tile.begin() + x - 63, 64, 1);
  }
  for (const std::int32_t column : columns) keys[column] = 1;
  for (std::int64_t k = 0; k < std::min(position + 64, kMillion); ++k)
    keys[k] |= in_tile[k - position + shift];
  std::fill(keys.begin() + std::min(position + 64, kMillion), keys.end(), 0);
  return keys;
}

void expect_a_million(const Members& columns, const Members& offsets, std::int64_t q_len,
                      std::int64_t& largest) {
  SparseIndex index{.q_len = q_len, .kv_len = kMillion, .causal = true, .heads = {}};
  index.heads.push_back(kernels::index_vertical_slash(columns, offsets, q_len, kMillion, true));
  largest = std::max(largest, index.heads[0].memory_bytes());
  ASSERT_LT(index.heads[0].memory_bytes(), 1 << 20);
  RowSliceKeys keys;
  sparse::reserve_keys(index, keys);
  const auto slices = sparse::row_slices(q_len, 0);
  sparse::HeadWork work;
  for (const RowSlice& slice : slices) {
    sparse::keys_of_slice(index, 0, slice, keys);
    work.tiles += std::ssize(keys.tiles);
    work.columns += std::ssize(keys.columns);
    const std::int64_t i = &slice - slices.data(), n = std::ssize(slices);
    if (i != 0 && i != 1 && i != n / 3 && i != n - 2 && i != n - 1) continue;
    std::vector<std::uint8_t> visited(kMillion, 0);
    for (const auto& tile : keys.tiles) {
      for (std::int64_t k = tile.begin; k < tile.begin + tile.count; ++k) ++visited[k];
    }
    for (const auto column : keys.columns) ++visited[column];
    auto painted = paint_row_block(columns, offsets, kMillion - q_len + 64 * slice.block);
    const std::int64_t key_end = kMillion - q_len + slice.end;
    std::fill(painted.begin() + key_end, painted.end(), 0);
    ASSERT_TRUE(visited == painted) << "row block " << slice.block;
  }
  const sparse::HeadWork counted = sparse::work_of(index, 0);
  EXPECT_EQ(counted.tiles, work.tiles);
  EXPECT_EQ(counted.columns, work.columns);
  EXPECT_LE(sparse::count_pairs(index, 0), 64 * (64 * work.tiles + work.columns));
}

TEST(AMillionTokens, EveryPlacementIsRightAndSmall) {
  std::mt19937 random(3);
  std::int64_t largest = 0;
  for (const std::int64_t run : {1, 8, 500}) {
    expect_a_million(place(random, 1000, run, false), place(random, 6096, run, false), kMillion, largest);
  }
  expect_a_million(place(random, 1000, 1, true), place(random, 6096, 1, true), kMillion, largest);
  expect_a_million(place(random, 1000, 1, false), place(random, 6096, 64, false), 100001, largest);
  std::cout << "checked: " << kMillion << " tokens, the largest index of a head has " << largest
            << " bytes\n";
}

}  // namespace
}  // namespace minference
