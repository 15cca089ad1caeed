#include "kernels/select/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/select/top_k.h"

namespace minference::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// The contract of top_k by sorting everything.
std::vector<std::int32_t> top_k_by_sorting(const std::vector<float>& values, std::int64_t count,
                                           std::int64_t forced) {
  std::vector<std::int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    if ((a < forced) != (b < forced)) return a < forced;
    if (a < forced) return false;
    if (std::isnan(values[a]) != std::isnan(values[b])) return std::isnan(values[b]);
    return values[a] > values[b];
  });
  order.resize(std::min<std::size_t>(order.size(), static_cast<std::size_t>(count)));
  std::sort(order.begin(), order.end());
  return order;
}

TEST(TopK, EqualsSorting) {
  std::mt19937 random(5);
  const float special[] = {0.0f, -0.0f, kNan, kInf, -kInf, 1.0f, -1.0f, 1e-40f};
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> values(random() % 300);
    const int kind = static_cast<int>(random() % 3);
    for (float& x : values) {
      if (kind == 0) x = std::uniform_real_distribution<float>(-1, 1)(random);
      if (kind == 1) x = static_cast<float>(random() % 5);  // ties
      if (kind == 2) x = special[random() % std::size(special)];
    }
    const std::int64_t count = random() % 320, forced = random() % 40;
    ASSERT_EQ(top_k(values, count, forced), top_k_by_sorting(values, count, forced)) << "round " << round;
  }
}

TEST(SelectPublished, ForcedMembersCountInsideTheBudget) {
  std::vector<float> column_sums(1000, 0.0f), diagonal_sums(1000, 0.0f);
  column_sums[500] = 1;
  diagonal_sums[700] = 1;
  const Selection selection = select_published(column_sums, diagonal_sums, 31, 101);
  ASSERT_EQ(selection.columns.size(), 31u);
  ASSERT_EQ(selection.offsets.size(), 101u);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(selection.columns[i], i);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(selection.offsets[i], i);
  EXPECT_EQ(selection.columns[30], 500);
  EXPECT_EQ(selection.offsets[100], 700);
}

TEST(SelectPublished, SmallBudgetsAreRaisedAndLargeOnesCut) {
  const std::vector<float> sums(70, 0.5f);
  const Selection small = select_published(sums, sums, 0, 7);
  EXPECT_EQ(small.columns.size(), 30u);
  EXPECT_EQ(small.offsets.size(), 50u);  // the smallest offsets
  EXPECT_EQ(small.offsets.back(), 49);
  const Selection large = select_published(sums, sums, 71, std::numeric_limits<std::int32_t>::max());
  EXPECT_EQ(large.columns.size(), 70u);
  EXPECT_EQ(large.offsets.size(), 70u);
  const Selection tiny = select_published(std::span(sums).first(3), std::span(sums).first(3), 1000, 1000);
  EXPECT_EQ(tiny.columns, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(select_published({}, {}, 10, 10).columns.size(), 0u);
}

TEST(Select, FollowsTheHeadsPattern) {
  std::vector<float> column_sums(4000), diagonal_sums(4000);
  for (std::size_t i = 0; i < column_sums.size(); ++i)
    diagonal_sums[i] = 1 / (1 + static_cast<float>(column_sums[i] = static_cast<float>(i % 97) / 97));
  const Selection published =
      select({sparse::Pattern::vertical_slash, {40, 120}}, column_sums, diagonal_sums, 0.02);
  EXPECT_EQ(published.columns, select_published(column_sums, diagonal_sums, 40, 120).columns);
  EXPECT_EQ(published.offsets, select_published(column_sums, diagonal_sums, 40, 120).offsets);
  const Selection adaptive =
      select({sparse::Pattern::adaptive, {0, 0}, 0, 700000}, column_sums, diagonal_sums, 0.02);
  EXPECT_EQ(adaptive.columns, select_adaptive(column_sums, diagonal_sums, 0.7, 0.02).columns);
  EXPECT_EQ(adaptive.offsets, select_adaptive(column_sums, diagonal_sums, 0.7, 0.02).offsets);
}

TEST(SelectPublished, TiesGoToTheSmallerMember) {
  const std::vector<float> sums(400, 0.25f);
  const Selection selection = select_published(sums, sums, 40, 120);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(selection.columns[i], i);
  for (int i = 0; i < 120; ++i) EXPECT_EQ(selection.offsets[i], i);
}

// 64 rows of attention over `length` keys, and its sums.
struct Attention {
  explicit Attention(std::int64_t n) : length(n), mass(64 * n) {}
  float& at(std::int64_t row, std::int64_t key) { return mass[row * length + key]; }

  // Leaves causal pairs only, and rows that sum to 1.
  void normalize() {
    for (std::int64_t row = 0; row < 64; ++row) {
      double total = 0;
      for (std::int64_t k = 0; k < length; ++k) total += k <= position(row) ? at(row, k) : at(row, k) = 0;
      for (std::int64_t k = 0; k < length; ++k) at(row, k) = static_cast<float>(at(row, k) / total);
    }
    column_sums.assign(length, 0.0f);
    diagonal_sums.assign(length, 0.0f);
    for (std::int64_t row = 0; row < 64; ++row)
      for (std::int64_t k = 0; k <= position(row); ++k) {
        column_sums[k] += at(row, k);
        diagonal_sums[position(row) - k] += at(row, k);
      }
  }
  std::int64_t position(std::int64_t row) const { return length - 64 + row; }

  // The share of the mass in the pairs of the index contract when row 0 has index `row_in_block` of its row
  // block.
  double kept(const Selection& selection, std::int64_t row_in_block) {
    double total = 0;
    for (std::int64_t row = 0; row < 64; ++row) {
      const std::int64_t block = position(row) - (row + row_in_block) % 64;  // P
      std::vector<bool> in(length, false);
      for (const std::int32_t k : selection.columns) in[k] = true;
      for (const std::int32_t s : selection.offsets)
        for (std::int64_t k = std::max<std::int64_t>(0, block - s); k < std::min(length, block - s + 64); ++k)
          in[k] = true;
      for (std::int64_t k = 0; k <= position(row); ++k)
        if (in[k]) total += at(row, k);
    }
    return total / 64;
  }

  std::int64_t length;
  std::vector<float> mass, column_sums, diagonal_sums;
};

Attention random_attention(std::mt19937& random) {
  std::uniform_real_distribution<float> uniform;
  Attention a(64 + random() % 3000);
  const float background = uniform(random) < 0.3f ? 0.2f : 0.001f;
  for (float& x : a.mass) x = background * uniform(random) / static_cast<float>(a.length);
  for (int i = static_cast<int>(random() % 20); i > 0; --i) {  // columns
    const std::int64_t k = random() % a.length;
    for (int row = 0; row < 64; ++row) a.at(row, k) += 0.2f * uniform(random);
  }
  for (int i = static_cast<int>(random() % 10); i > 0; --i) {  // slashes
    const std::int64_t offset = random() % a.length;
    for (int row = 0; row < 64; ++row)
      if (a.position(row) >= offset) a.at(row, a.position(row) - offset) += 0.3f * uniform(random);
  }
  if (random() % 2) {  // a local band
    const double decay = 5 + 100 * uniform(random);
    for (int row = 0; row < 64; ++row)
      for (std::int64_t k = 0; k <= a.position(row); ++k)
        a.at(row, k) +=
            static_cast<float>(std::exp(-static_cast<double>(a.position(row) - k) / decay) / decay);
  }
  for (int row = 0; row < 64; ++row) a.at(row, a.position(row)) += 1e-3f;
  a.normalize();
  return a;
}

TEST(SelectAdaptive, KeepsTheShareForEveryAlignmentOfTheRowBlocks) {
  std::mt19937 random(17);
  for (int round = 0; round < 150; ++round) {
    Attention a = random_attention(random);
    for (const double share : {0.5, 0.9, 0.95, 0.99}) {
      const Selection selection = select_adaptive(a.column_sums, a.diagonal_sums, share, 1.0 / 50);
      for (const std::int64_t row_in_block : {0, 1, 17, 63})
        ASSERT_GE(a.kept(selection, row_in_block), share - 1e-5) << "round " << round << ", share " << share;
    }
  }
}

TEST(SelectAdaptive, MembersAreAscendingUniqueAndInRange) {
  std::mt19937 random(23);
  for (int round = 0; round < 100; ++round) {
    const Attention a = random_attention(random);
    const Selection selection = select_adaptive(a.column_sums, a.diagonal_sums, 0.97, 1.0 / 50);
    for (const auto* members : {&selection.columns, &selection.offsets}) {
      EXPECT_TRUE(std::adjacent_find(members->begin(), members->end(), std::greater_equal<>()) ==
                  members->end());
      if (!members->empty()) EXPECT_TRUE(members->front() >= 0 && members->back() < a.length);
    }
    EXPECT_EQ(selection.offsets.front(), 0);
  }
}

TEST(SelectAdaptive, ASlashCostsBandsAndAColumnCostsAColumn) {
  Attention a(4096);
  for (int row = 0; row < 64; ++row) {
    a.at(row, a.position(row)) = 0.3f;
    a.at(row, a.position(row) - 2000) = 0.3f;
    a.at(row, 777) = 0.4f;
  }
  a.normalize();
  const Selection selection = select_adaptive(a.column_sums, a.diagonal_sums, 0.99, 1.0 / 50);
  EXPECT_EQ(selection.offsets, (std::vector<std::int32_t>{0, 64, 128, 1984, 2048}));
  EXPECT_EQ(selection.columns.size(), 128u) << "the share asks for 31";
  EXPECT_TRUE(std::binary_search(selection.columns.begin(), selection.columns.end(), 777));
}

TEST(SelectAdaptive, KeepsTheColumnsThatTheShareDoesNotAskFor) {
  Attention a(4096);
  for (int row = 0; row < 64; ++row) {
    a.at(row, 0) = 0.5f;
    a.at(row, a.position(row)) = 0.5f;
    for (int key = 1000; key < 1097; ++key) a.at(row, key) = 1e-4f;
  }
  a.normalize();
  const Selection selection = select_adaptive(a.column_sums, a.diagonal_sums, 0.9, 1.0 / 50);
  for (int key = 1000; key < 1097; ++key)
    EXPECT_TRUE(std::binary_search(selection.columns.begin(), selection.columns.end(), key)) << key;
  EXPECT_EQ(selection.offsets, (std::vector<std::int32_t>{0, 64, 128}));
}

TEST(SelectAdaptive, EverythingWhenTheShareIsOneOrTheSumsAreNan) {
  std::mt19937 random(2);
  Attention a = random_attention(random);
  EXPECT_NEAR(a.kept(select_adaptive(a.column_sums, a.diagonal_sums, 1.0, 1.0 / 50), 5), 1.0, 1e-5);
  const std::vector<float> nan(300, kNan);
  EXPECT_EQ(select_adaptive(nan, nan, 0.95, 1.0 / 50).offsets.size(), 6u);
  EXPECT_TRUE(select_adaptive({}, {}, 0.95, 1.0 / 50).offsets.empty());
}

}  // namespace
}  // namespace minference::kernels
