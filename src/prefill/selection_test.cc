#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <random>
#include <string>

#include "kernels/estimate/estimate.h"
#include "kernels/estimate/reference.h"
#include "kernels/index/index.h"
#include "kernels/select/select.h"
#include "prefill/prefill.h"

// Estimation and published selection together against both in double precision: the members must be the same,
// but for those whose sums lie within 1e-3 of the cut.
namespace minference::kernels {
namespace {

using base::DType;

struct Case {
  std::int64_t num_kv_heads, group, q_len, kv_len, head_dim, vertical, slash;
  DType dtype;

  std::string describe() const {
    return std::to_string(num_kv_heads) + " x " + std::to_string(group) + " heads, " + std::to_string(q_len) +
           " x " + std::to_string(kv_len) + " x " + std::to_string(head_dim) + " " + base::name_of(dtype) +
           ", budgets " + std::to_string(vertical) + ", " + std::to_string(slash);
  }
};

Case random_case(std::mt19937_64& random) {
  const auto one_of = [&](std::initializer_list<std::int64_t> values) {
    return values.begin()[random() % values.size()];
  };
  Case c;
  c.num_kv_heads = one_of({1, 2});
  c.group = one_of({1, 4, 7, 8});
  c.kv_len = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(one_of({70, 300, 1400})));
  c.q_len = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(c.kv_len));
  if (random() % 4 == 0) c.q_len = std::min<std::int64_t>(c.q_len, 1 + random() % 64);
  if (random() % 4 == 0) c.q_len = c.kv_len;
  c.head_dim = one_of({64, 64, 80, 96, 128});
  c.vertical = one_of({0, 30, 31, 64, 100, 1000});
  c.slash = one_of({0, 50, 99, 100, 101, 150, 400, 6096});
  c.dtype = static_cast<DType>(one_of({1, 2, 3}));
  return c;
}

// Heads with a few columns that every query likes and a few distances that every query likes, in strided
// storage whose gaps are NaN: rows of all heads interleaved, as an engine's projection leaves them.
class StructuredHeads {
 public:
  StructuredHeads(const Case& c, std::mt19937_64& random) {
    constexpr std::int64_t kPairs = 8;  // dimensions 0..15 turn with the position, 16 is liked by every query
    std::normal_distribution<float> normal;
    std::vector<float> frequencies(kPairs);
    for (float& f : frequencies) f = std::exp(-6.0f * std::uniform_real_distribution<float>()(random));
    const auto offset = static_cast<float>(random() % static_cast<std::uint64_t>(c.kv_len));
    std::vector<bool> is_column(static_cast<std::size_t>(c.kv_len));
    for (auto column : is_column) column = random() % 40 == 0;

    const auto make = [&](std::vector<std::byte>& storage, std::int64_t heads, std::int64_t rows,
                          std::int64_t first, auto row_value) {
      const std::int64_t row_stride = heads * c.head_dim + 3;
      storage.assign((rows * row_stride + 1) * base::size_of(c.dtype), std::byte{0xff});
      std::byte* data = storage.data() + base::size_of(c.dtype);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t d = 0; d < c.head_dim; ++d)
            base::store_float(data, c.dtype, r * row_stride + h * c.head_dim + d,
                              normal(random) + row_value(first + r, d));
      return base::InputHeads{data, c.dtype, heads, rows, c.head_dim, c.head_dim, row_stride};
    };
    const auto turn = [&](float position, std::int64_t d) {
      const float angle = frequencies[static_cast<std::size_t>(d / 2)] * position;
      return 2.0f * (d % 2 == 0 ? std::cos(angle) : std::sin(angle));
    };
    query = make(query_storage_, c.num_kv_heads * c.group, c.q_len, c.kv_len - c.q_len,
                 [&](std::int64_t position, std::int64_t d) {
                   return d < 2 * kPairs    ? turn(static_cast<float>(position) - offset, d)
                          : d == 2 * kPairs ? 8.0f
                                            : 0.0f;
                 });
    key = make(key_storage_, c.num_kv_heads, c.kv_len, 0, [&](std::int64_t position, std::int64_t d) {
      if (d < 2 * kPairs) return turn(static_cast<float>(position), d);
      return d == 2 * kPairs && is_column[static_cast<std::size_t>(position)] ? 4.0f : 0.0f;
    });
  }

  base::InputHeads query, key;

 private:
  std::vector<std::byte> query_storage_, key_storage_;
};

// Positions in the order of selection: forced ones, then by falling sum, ties by position.
std::vector<std::int32_t> ranked(const std::vector<double>& sums, std::int64_t forced) {
  std::vector<std::int32_t> order(sums.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin() + std::min<std::int64_t>(forced, static_cast<std::int64_t>(sums.size())),
                   order.end(), [&](std::int32_t a, std::int32_t b) { return sums[a] > sums[b]; });
  return order;
}

void expect_members(const std::vector<std::int32_t>& got, const std::vector<double>& sums,
                    std::int64_t budget, std::int64_t forced, const std::string& what) {
  const auto count = std::min(budget, static_cast<std::int64_t>(sums.size()));
  ASSERT_EQ(static_cast<std::int64_t>(got.size()), count) << what;
  auto expected = ranked(sums, forced);
  expected.resize(static_cast<std::size_t>(count));
  const double cut = count > forced ? sums[expected.back()] : std::numeric_limits<double>::infinity();
  std::sort(expected.begin(), expected.end());
  std::vector<std::int32_t> differing;
  std::set_symmetric_difference(got.begin(), got.end(), expected.begin(), expected.end(),
                                std::back_inserter(differing));
  for (const std::int32_t member : differing) {
    EXPECT_GE(member, forced) << what;
    EXPECT_NEAR(sums[member], cut, 1e-3 * cut) << what << ", member " << member;
  }
}

void run_cases(int count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  int heads_compared = 0;
  const auto executor = base::make_thread_pool(2);
  for (int i = 0; i < count; ++i) {
    const Case c = random_case(random);
    const StructuredHeads heads(c, random);
    const std::int64_t num_query_heads = heads.query.heads, stride = c.kv_len + 5;
    std::vector<float> column_sums(num_query_heads * stride, std::numeric_limits<float>::quiet_NaN());
    std::vector<float> diagonal_sums(column_sums);
    const EstimateCall call{
        heads.query,          heads.key, 1.0f / std::sqrt(static_cast<float>(c.head_dim)), column_sums.data(),
        diagonal_sums.data(), stride};
    select_estimate(base::choose_isa(""), c.dtype, c.head_dim).run(call, *executor);
    for (std::int64_t h = 0; h < num_query_heads; h += 1 + num_query_heads / 3) {
      const ReferenceSums reference = estimate_reference(call, h);
      const auto length = static_cast<std::size_t>(c.kv_len);
      const Selection selection =
          select_published({column_sums.data() + h * stride, length},
                           {diagonal_sums.data() + h * stride, length}, c.vertical, c.slash);
      const std::string what =
          "case " + std::to_string(i) + ", head " + std::to_string(h) + ": " + c.describe();
      expect_members(selection.columns, reference.column, std::max(c.vertical, kMinVertical), kForcedColumns,
                     what);
      expect_members(selection.offsets, reference.diagonal, std::max(c.slash, kMinSlash), kForcedOffsets,
                     what);
      if (testing::Test::HasFailure()) return;
      ++heads_compared;
    }
  }
  std::cout << "checked: " << count << " cases, " << heads_compared
            << " heads select what double precision does\n";
}

TEST(Selection, EqualsDoublePrecisionUpToTheCut) {
  const bool exhaustive = std::getenv("MINFERENCE_EXHAUSTIVE") != nullptr;
  run_cases(exhaustive ? 2000 : 300, 41);
}

using sparse::HeadIndex;
using sparse::HeadPattern;
using sparse::Pattern;

HeadPattern random_pattern(std::mt19937_64& random) {
  const auto one_of = [&](std::initializer_list<std::int32_t> values) {
    return values.begin()[random() % values.size()];
  };
  const auto pattern = static_cast<Pattern>(one_of({0, 1, 2, 2, 2, 3, 3, 4}));
  const std::int32_t dense_rows = one_of({0, 0, 17});
  switch (pattern) {
    case Pattern::dense:
      return {};
    case Pattern::a_shape:
      return {pattern, {one_of({0, 4, 64}), one_of({1, 60, 200})}, dense_rows};
    case Pattern::vertical_slash:
      return {pattern, {one_of({0, 31, 100, 400}), one_of({0, 99, 150, 400})}, dense_rows};
    case Pattern::block_sparse:
      return {pattern, {one_of({0, 3, 5, 9}), 0}, dense_rows};
    case Pattern::adaptive:
      return {pattern, {0, 0}, dense_rows, one_of({500000, 900000, 990000})};
  }
  return {};
}

void expect_same(const HeadIndex& a, const HeadIndex& b, const std::string& what) {
  EXPECT_EQ(a.form, b.form) << what;
  EXPECT_EQ(a.tiles, b.tiles) << what;
  EXPECT_EQ(a.columns, b.columns) << what;
  EXPECT_EQ(a.sink, b.sink) << what;
  EXPECT_EQ(a.local, b.local) << what;
  EXPECT_EQ(a.row_offsets, b.row_offsets) << what;
  EXPECT_EQ(a.key_blocks, b.key_blocks) << what;
  EXPECT_EQ(a.last_dense_rows, b.last_dense_rows) << what;
}

// Mean of the rows of 64-row block `block`, in double precision.
std::vector<double> pooled(const base::InputHeads& x, std::int64_t head, std::int64_t block) {
  std::vector<double> mean(x.dim);
  const std::int64_t end = std::min(64 * block + 64, x.rows);
  for (std::int64_t r = 64 * block; r < end; ++r)
    for (std::int64_t d = 0; d < x.dim; ++d)
      mean[d] += double{base::load_float(x.data, x.dtype, head * x.head_stride + r * x.row_stride + d)} /
                 static_cast<double>(end - 64 * block);
  return mean;
}

// The heads of one KV head that share block lists: no block left out scores more than one that was chosen.
void expect_best_blocks(const HeadIndex& index, const StructuredHeads& data,
                        const std::vector<std::int64_t>& heads, std::int64_t kv_head,
                        const std::string& what) {
  const std::int64_t q_len = data.query.rows, kv_len = data.key.rows;
  for (std::int64_t b = 0; 64 * b < q_len; ++b) {
    const std::int64_t first = kv_len - q_len + 64 * b,
                       last = first + std::min<std::int64_t>(63, q_len - 64 * b - 1);
    double lowest_chosen = INFINITY, highest_left = -INFINITY, largest = 0;
    const auto begin = index.key_blocks.begin() + index.row_offsets[b],
               end = index.key_blocks.begin() + index.row_offsets[b + 1];
    for (std::int64_t j = 1; j < first / 64; ++j) {  // neither forced nor hidden from all rows
      double score = 0;
      const auto key = pooled(data.key, kv_head, j);
      for (const std::int64_t h : heads) {
        const auto query = pooled(data.query, h, b);
        score += std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
      }
      const bool chosen = std::binary_search(begin, end, static_cast<std::int32_t>(j));
      if (chosen) lowest_chosen = std::min(lowest_chosen, score);
      if (!chosen) highest_left = std::max(highest_left, score);
      largest = std::max(largest, std::abs(score));
    }
    EXPECT_GE(lowest_chosen, highest_left - 1e-4 * largest) << what << ", row block " << b;
    EXPECT_EQ(*(end - 1), last / 64) << what << ", row block " << b;
  }
}

TEST(Selection, OfHeadsThatShareAnIndexIsThatOfTheirSums) {
  std::mt19937_64 random(43);
  const auto executor = base::make_thread_pool(2);
  const base::Isa isa = base::choose_isa("");
  int shared[5] = {};
  for (int i = 0; i < 200; ++i) {
    const Case c = random_case(random);
    const StructuredHeads data(c, random);
    std::vector<HeadPattern> patterns(data.query.heads);
    for (auto& pattern : patterns) pattern = random_pattern(random);
    std::vector<float> columns(data.query.heads * c.kv_len), diagonals(columns);
    const EstimateCall call{
        data.query,     data.key,         1.0f / std::sqrt(static_cast<float>(c.head_dim)),
        columns.data(), diagonals.data(), c.kv_len};
    select_estimate(isa, c.dtype, c.head_dim).run(call, *executor);
    prefill::Statistics unused;
    const sparse::SparseIndex index = prefill::build_index({.query = data.query,
                                                            .key = data.key,
                                                            .softmax_scale = call.softmax_scale,
                                                            .heads = patterns,
                                                            .fallback = prefill::Fallback::off,
                                                            .share_index = true},
                                                           isa, *executor, unused);
    ASSERT_EQ(std::ssize(index.heads), data.query.heads);
    for (std::int64_t kv_head = 0; kv_head < c.num_kv_heads; ++kv_head)
      for (const Pattern kind : {Pattern::dense, Pattern::a_shape, Pattern::vertical_slash,
                                 Pattern::block_sparse, Pattern::adaptive}) {
        std::vector<std::int64_t> heads;
        HeadPattern largest{kind, {0, 0}, 0, 0};
        std::vector<float> column_sums(c.kv_len), diagonal_sums(c.kv_len);
        std::vector<double> exact_columns(c.kv_len), exact_diagonals(c.kv_len);
        for (std::int64_t h = kv_head * c.group; h < (kv_head + 1) * c.group; ++h) {
          if (patterns[h].pattern != kind) continue;
          heads.push_back(h);
          for (int s = 0; s < 2; ++s) largest.size[s] = std::max(largest.size[s], patterns[h].size[s]);
          largest.last_dense_rows = std::max(largest.last_dense_rows, patterns[h].last_dense_rows);
          largest.share_ppm = std::max(largest.share_ppm, patterns[h].share_ppm);
          if (kind != Pattern::vertical_slash && kind != Pattern::adaptive) continue;
          const ReferenceSums exact = estimate_reference(call, h);
          for (std::int64_t k = 0; k < c.kv_len; ++k) {
            column_sums[k] += columns[h * c.kv_len + k], diagonal_sums[k] += diagonals[h * c.kv_len + k];
            exact_columns[k] += exact.column[k], exact_diagonals[k] += exact.diagonal[k];
          }
        }
        if (heads.empty()) continue;
        const std::string what = "case " + std::to_string(i) + ", head " + std::to_string(heads[0]) +
                                 ", pattern " + std::to_string(static_cast<int>(kind)) + ": " + c.describe();
        const HeadIndex& first = index.heads[heads[0]];
        for (const std::int64_t h : heads) expect_same(index.heads[h], first, what);
        if (first.form != sparse::IndexForm::all)
          EXPECT_EQ(first.last_dense_rows, std::min<std::int64_t>(largest.last_dense_rows, c.q_len)) << what;
        if (kind == Pattern::dense) {
          EXPECT_EQ(first.form, sparse::IndexForm::all) << what;
        } else if (kind == Pattern::a_shape) {
          EXPECT_EQ(first.sink, largest.size[0]) << what;
          EXPECT_EQ(first.local, largest.size[1]) << what;
        } else if (kind == Pattern::block_sparse) {
          if (first.form == sparse::IndexForm::blocks) expect_best_blocks(first, data, heads, kv_head, what);
        } else {
          const double column_cost = select_attention(isa, c.dtype, c.head_dim).cost_of_column;
          const Selection selection = select(largest, column_sums, diagonal_sums, column_cost);
          HeadIndex expected =
              index_vertical_slash(selection.columns, selection.offsets, c.q_len, c.kv_len, true);
          expected.last_dense_rows = first.last_dense_rows;
          expect_same(first, expected, what);
          if (kind == Pattern::vertical_slash) {
            expect_members(selection.columns, exact_columns,
                           std::max<std::int64_t>(largest.size[0], kMinVertical), kForcedColumns, what);
            expect_members(selection.offsets, exact_diagonals,
                           std::max<std::int64_t>(largest.size[1], kMinSlash), kForcedOffsets, what);
          }
        }
        if (testing::Test::HasFailure()) return;
        shared[static_cast<int>(kind)] += heads.size() > 1;
      }
  }
  for (const Pattern kind :
       {Pattern::a_shape, Pattern::vertical_slash, Pattern::block_sparse, Pattern::adaptive})
    EXPECT_GT(shared[static_cast<int>(kind)], 20) << static_cast<int>(kind);
}

}  // namespace
}  // namespace minference::kernels
