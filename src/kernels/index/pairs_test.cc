// Which pairs: every index is compared, pair by pair, with a boolean mask painted straight from the words of
// docs/algorithm.md, "The index contract". The painter shares nothing with the builder but the input.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/index/index.h"

namespace minference {
namespace {

using sparse::HeadIndex;
using sparse::IndexForm;
using sparse::RowSlice;
using sparse::RowSliceKeys;
using sparse::SparseIndex;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t in(std::int64_t first, std::int64_t last) {
    return std::uniform_int_distribution<std::int64_t>(first, last)(engine_);
  }
  bool chance(int percent) { return in(1, 100) <= percent; }

 private:
  std::mt19937_64 engine_;
};

enum class Kind { dense, a_shape, vertical_slash, block_sparse };

struct Head {
  Kind kind = Kind::dense;
  std::vector<std::int32_t> columns, offsets;   // vertical-slash, as a caller gives them
  std::int64_t sink = 0, local = 0;             // A-shape
  std::int64_t top_k = 0, dim = 0;              // block-sparse
  std::vector<float> pooled_query, pooled_key;  // small integers: every score is exact, ties are common
  std::int64_t last_dense_rows = 0;
};

struct Case {
  std::int64_t q_len = 0, kv_len = 0;
  bool causal = true;
  std::vector<Head> heads;
};

// ---- The painter ------------------------------------------------------------------------------------------

// mask[row * kv_len + key]
using Mask = std::vector<std::uint8_t>;

// The relative keys (to a row block's first position) that lie in a tile; element i is relative key i - shift.
std::vector<std::uint8_t> paint_tiles(const std::vector<std::int32_t>& offsets, std::int64_t shift,
                                      std::int64_t size) {
  std::vector<std::uint8_t> wanted(size, 0), covered(size, 0);
  for (const std::int64_t s : offsets) {
    for (std::int64_t k = -s; k < -s + 64; ++k) wanted.at(k + shift) = 1;
  }
  for (std::int64_t x = size - 1; x >= 0; --x) {
    if (!wanted[x] || covered[x]) continue;
    for (std::int64_t k = x - 63; k <= x; ++k) covered.at(k) = 1;
  }
  return covered;
}

void paint_vertical_slash(const Case& c, const Head& head, Mask& mask) {
  std::vector<std::uint8_t> is_column(c.kv_len, 0);
  for (const std::int32_t column : head.columns) is_column.at(column) = 1;
  const std::int64_t shift = c.kv_len + c.q_len + 128;
  const auto in_tile = paint_tiles(head.offsets, shift, 2 * shift);
  for (std::int64_t row = 0; row < c.q_len; ++row) {
    const std::int64_t block_position = c.kv_len - c.q_len + row / 64 * 64;
    for (std::int64_t k = 0; k < c.kv_len; ++k) {
      if (is_column[k] || in_tile.at(k - block_position + shift)) mask[row * c.kv_len + k] = 1;
    }
  }
}

void paint_a_shape(const Case& c, const Head& head, Mask& mask) {
  for (std::int64_t row = 0; row < c.q_len; ++row) {
    const std::int64_t q = c.kv_len - c.q_len + row;
    for (std::int64_t k = 0; k < c.kv_len; ++k) {
      if (std::abs(q - k) < head.local || k < head.sink) mask[row * c.kv_len + k] = 1;
    }
  }
}

void paint_block_sparse(const Case& c, const Head& head, Mask& mask) {
  const std::int64_t key_blocks = (c.kv_len + 63) / 64;
  for (std::int64_t b = 0; b * 64 < c.q_len; ++b) {
    const std::int64_t row_end = std::min(c.q_len, 64 * b + 64);
    std::vector<std::uint8_t> kept(key_blocks, 0), possible(key_blocks, c.causal ? 0 : 1);
    if (key_blocks > 0) kept[0] = 1;
    for (std::int64_t row = 64 * b; row < row_end; ++row) {
      const std::int64_t q = c.kv_len - c.q_len + row;
      if (q >= 0) kept.at(q / 64) = 1;
      for (std::int64_t k = 0; k <= q; ++k) possible[k / 64] = 1;
    }
    std::vector<double> score(key_blocks, 0.0);
    for (std::int64_t j = 0; j < key_blocks; ++j) {
      for (std::int64_t d = 0; d < head.dim; ++d) {
        score[j] +=
            static_cast<double>(head.pooled_query[b * head.dim + d]) * head.pooled_key[j * head.dim + d];
      }
    }
    for (std::int64_t count = std::count(kept.begin(), kept.end(), 1); count < head.top_k; ++count) {
      std::int64_t best = -1;
      for (std::int64_t j = 0; j < key_blocks; ++j) {
        if (possible[j] && !kept[j] && (best < 0 || score[j] > score[best])) best = j;
      }
      if (best < 0) break;
      kept[best] = 1;
    }
    for (std::int64_t row = 64 * b; row < row_end; ++row) {
      for (std::int64_t k = 0; k < c.kv_len; ++k) mask[row * c.kv_len + k] |= kept[k / 64];
    }
  }
}

Mask paint(const Case& c, const Head& head) {
  Mask mask(c.q_len * c.kv_len, head.kind == Kind::dense ? 1 : 0);
  if (head.kind == Kind::vertical_slash) paint_vertical_slash(c, head, mask);
  if (head.kind == Kind::a_shape) paint_a_shape(c, head, mask);
  if (head.kind == Kind::block_sparse) paint_block_sparse(c, head, mask);
  for (std::int64_t row = 0; row < c.q_len; ++row) {
    const std::int64_t q = c.kv_len - c.q_len + row;
    const bool dense = row + head.last_dense_rows >= c.q_len;
    for (std::int64_t k = 0; k < c.kv_len; ++k) {
      std::uint8_t& pair = mask[row * c.kv_len + k];
      pair = (pair || dense) && (!c.causal || k <= q);
    }
  }
  return mask;
}

// ---- Random cases -----------------------------------------------------------------------------------------

// Members in [begin, end): scattered, in runs, or at the ends, with duplicates and in any order.
std::vector<std::int32_t> random_members(Random& random, std::int64_t begin, std::int64_t end) {
  std::vector<std::int32_t> members;
  if (begin >= end) return members;
  const std::int64_t count =
      random.chance(20) ? random.in(0, 3) : random.in(0, (end - begin) / random.in(1, 20) + 1);
  const int style = static_cast<int>(random.in(0, 3));
  std::int64_t member = random.in(begin, end - 1);
  while (std::ssize(members) < count) {
    if (style == 0 || random.chance(10)) member = random.in(begin, end - 1);
    if (style == 2) member = random.chance(50) ? begin : end - 1;
    if (style == 3) member += random.in(60, 70);
    member = member >= end ? begin : member;
    members.push_back(static_cast<std::int32_t>(member));
    if (style == 1) ++member;
  }
  if (begin <= 0 && random.chance(60)) members.push_back(0);
  std::shuffle(members.begin(), members.end(), std::mt19937_64(random.in(0, 1 << 30)));
  return members;
}

std::vector<float> random_integers(Random& random, std::int64_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.in(-2, 2));
  return values;
}

Head random_head(Random& random, const Case& c) {
  Head head;
  head.kind = static_cast<Kind>(random.in(random.chance(95) ? 1 : 0, 3));
  if (random.chance(30)) head.last_dense_rows = random.in(1, random.chance(50) ? 70 : c.q_len + 5);
  switch (head.kind) {
    case Kind::dense:
      break;
    case Kind::a_shape:
      head.sink = random.chance(20) ? 0 : random.in(0, random.chance(50) ? 130 : c.kv_len + 5);
      head.local = random.chance(10) ? 0 : random.in(0, random.chance(50) ? 200 : c.kv_len + 70);
      break;
    case Kind::vertical_slash:
      head.columns = random_members(random, 0, c.kv_len);
      head.offsets = random_members(random, c.causal ? 0 : 1 - c.q_len, c.kv_len);
      break;
    case Kind::block_sparse:
      head.top_k = random.in(0, c.kv_len / 64 + 2);
      head.dim = random.in(1, 19);
      head.pooled_query = random_integers(random, (c.q_len + 63) / 64 * head.dim);
      head.pooled_key = random_integers(random, (c.kv_len + 63) / 64 * head.dim);
  }
  return head;
}

Case random_case(std::uint64_t seed) {
  Random random(seed);
  Case c;
  c.causal = random.chance(75);
  c.kv_len = random.chance(20) ? 64 * random.in(1, 10) : random.in(1, 700);
  c.q_len = random.chance(25) ? c.kv_len : random.in(1, c.causal ? c.kv_len : 700);
  if (random.chance(15)) c.q_len = std::min<std::int64_t>(c.q_len, 64 * random.in(1, 10));
  for (std::int64_t h = random.in(1, 3); h > 0; --h) c.heads.push_back(random_head(random, c));
  return c;
}

std::string describe(const Case& c, const Head& head) {
  std::ostringstream text;
  text << "q_len " << c.q_len << ", kv_len " << c.kv_len << ", causal " << c.causal << ", last_dense_rows "
       << head.last_dense_rows << ", kind " << static_cast<int>(head.kind) << ", sink " << head.sink
       << ", local " << head.local << ", top_k " << head.top_k << "\ncolumns";
  for (const auto column : head.columns) text << ' ' << column;
  text << "\noffsets";
  for (const auto offset : head.offsets) text << ' ' << offset;
  return text.str();
}

// ---- The index under test ---------------------------------------------------------------------------------

HeadIndex build(const Case& c, const Head& head) {
  HeadIndex index;
  switch (head.kind) {
    case Kind::dense:
      break;
    case Kind::a_shape:
      index = kernels::index_a_shape(head.sink, head.local);
      break;
    case Kind::vertical_slash:
      index = kernels::index_vertical_slash(head.columns, head.offsets, c.q_len, c.kv_len, c.causal);
      break;
    case Kind::block_sparse:
      index = kernels::index_block_sparse(head.pooled_query.data(), head.pooled_key.data(), head.dim,
                                          head.top_k, c.q_len, c.kv_len, c.causal);
  }
  index.last_dense_rows = head.last_dense_rows;
  return index;
}

SparseIndex build(const Case& c) {
  SparseIndex index{.q_len = c.q_len, .kv_len = c.kv_len, .causal = c.causal, .heads = {}};
  for (const Head& head : c.heads) index.heads.push_back(build(c, head));
  return index;
}

void expect_slices(const std::vector<RowSlice>& slices, std::int64_t q_len, std::int64_t last_dense_rows) {
  std::int64_t next = 0;
  for (const RowSlice& slice : slices) {
    ASSERT_EQ(slice.begin, next);
    ASSERT_LT(slice.begin, slice.end);
    ASSERT_EQ(slice.begin / 64, slice.block);
    ASSERT_EQ((slice.end - 1) / 64, slice.block);
    ASSERT_EQ(slice.dense, slice.begin + last_dense_rows >= q_len);
    ASSERT_EQ(slice.dense, slice.end - 1 + last_dense_rows >= q_len);
    next = slice.end;
  }
  ASSERT_EQ(next, q_len);
}

// What RowSliceKeys promises of order, clipping and mask flags.
void expect_keys(const Case& c, const RowSlice& slice, const RowSliceKeys& keys) {
  const std::int64_t first = c.kv_len - c.q_len + slice.begin, last = c.kv_len - c.q_len + slice.end - 1;
  // How many rows attend to a key; queries_of() must name the same rows.
  bool names_same_rows = true;
  const auto rows_attending = [&](std::int64_t k) {
    const auto queries = keys.rule.queries_of(k, first, last);
    std::int64_t rows = 0;
    for (std::int64_t q = first; q <= last; ++q) {
      const bool allowed = keys.rule.allows(q, k);
      names_same_rows &= allowed == (queries.first <= q && q <= queries.last);
      rows += allowed;
    }
    return rows;
  };
  const std::int64_t rows = slice.end - slice.begin;
  std::int64_t right = c.kv_len;
  for (const auto& tile : keys.tiles) {
    ASSERT_GE(tile.begin, 0);
    ASSERT_GE(tile.count, 1);
    ASSERT_LE(tile.count, 64);
    ASSERT_LE(tile.begin + tile.count, right) << "tiles descend and are disjoint";
    right = tile.begin;
    bool masked = false, attended = false;
    for (std::int64_t k = tile.begin; k < tile.begin + tile.count; ++k) {
      const std::int64_t attending = rows_attending(k);
      masked |= attending < rows;
      attended |= attending > 0;
    }
    ASSERT_EQ(tile.masked, masked) << "tile at " << tile.begin;
    ASSERT_TRUE(attended) << "tile at " << tile.begin << " is wholly masked";
    if (c.causal) ASSERT_LE(tile.begin + tile.count - 1, last);
  }
  std::int64_t previous = -1;
  bool masked = false;
  for (const std::int64_t column : keys.columns) {
    ASSERT_GT(column, previous) << "columns ascend";
    const std::int64_t attending = rows_attending(column);
    ASSERT_GT(attending, 0);
    masked |= attending < rows;
    previous = column;
  }
  ASSERT_EQ(keys.columns_masked, masked);
  ASSERT_TRUE(names_same_rows);
}

void expect_head(const Case& c, std::int64_t h, const SparseIndex& index, RowSliceKeys& keys) {
  const Head& head = c.heads[h];
  const Mask mask = paint(c, head);
  std::vector<std::uint8_t> visits(mask.size(), 0);
  sparse::HeadWork work;
  const auto slices = sparse::row_slices(c.q_len, head.last_dense_rows);
  ASSERT_NO_FATAL_FAILURE(expect_slices(slices, c.q_len, head.last_dense_rows));
  const auto tile_capacity = keys.tiles.capacity(), column_capacity = keys.columns.capacity();
  for (const RowSlice& slice : slices) {
    sparse::keys_of_slice(index, h, slice, keys);
    ASSERT_NO_FATAL_FAILURE(expect_keys(c, slice, keys));
    ++work.row_slices;
    work.tiles += std::ssize(keys.tiles);
    work.columns += std::ssize(keys.columns);
    if (index.heads[h].form == sparse::IndexForm::relative && !slice.dense) {
      std::int64_t end_of_run = -1;
      for (const auto& tile : keys.tiles) {
        work.runs += tile.begin + tile.count != end_of_run;
        end_of_run = tile.begin;
      }
    }
    for (std::int64_t row = slice.begin; row < slice.end; ++row) {
      const std::int64_t q = c.kv_len - c.q_len + row;
      std::uint8_t* visit = &visits[row * c.kv_len];
      for (const auto& tile : keys.tiles) {
        for (std::int64_t k = tile.begin; k < tile.begin + tile.count; ++k)
          visit[k] += keys.rule.allows(q, k);
      }
      for (const auto column : keys.columns) visit[column] += keys.rule.allows(q, column);
    }
  }
  ASSERT_EQ(keys.tiles.capacity(), tile_capacity) << "reserve_keys() must have reserved enough";
  ASSERT_EQ(keys.columns.capacity(), column_capacity);

  const auto [visit, painted] = std::mismatch(visits.begin(), visits.end(), mask.begin());
  if (visit != visits.end()) {
    const std::int64_t at = visit - visits.begin();
    FAIL() << "row " << at / c.kv_len << ", key " << at % c.kv_len << ": visited " << int{*visit}
           << " times, painted " << int{*painted};
  }
  ASSERT_EQ(sparse::count_pairs(index, h), std::count(mask.begin(), mask.end(), 1));
  const sparse::HeadWork counted = sparse::work_of(index, h);
  ASSERT_EQ(counted.row_slices, work.row_slices);
  ASSERT_EQ(counted.tiles, work.tiles);
  ASSERT_EQ(counted.runs, work.runs);
  ASSERT_EQ(counted.columns, work.columns);
}

void expect_case(const Case& c) {
  const SparseIndex index = build(c);
  RowSliceKeys keys;
  sparse::reserve_keys(index, keys);
  for (std::int64_t h = 0; h < std::ssize(c.heads); ++h) {
    ASSERT_NO_FATAL_FAILURE(expect_head(c, h, index, keys)) << describe(c, c.heads[h]);
  }
  Case dense = c;
  dense.heads = {Head{}};
  const Mask all = paint(dense, dense.heads[0]);
  ASSERT_EQ(sparse::count_all_pairs(c.q_len, c.kv_len, c.causal), std::count(all.begin(), all.end(), 1));
}

TEST(Pairs, RandomCasesEqualThePaintedMask) {
  const int cases = std::getenv("MINFERENCE_EXHAUSTIVE") ? 100000 : 5000;
  std::int64_t heads = 0, pairs = 0;
  for (int seed = 0; seed < cases; ++seed) {
    const Case c = random_case(seed);
    ASSERT_NO_FATAL_FAILURE(expect_case(c)) << "case " << seed;
    heads += std::ssize(c.heads);
    pairs += std::ssize(c.heads) * c.q_len * c.kv_len;
  }
  std::cout << "checked: " << cases << " cases, " << heads << " heads, " << pairs
            << " pairs equal the painted mask\n";
}

}  // namespace
}  // namespace minference
