#include "search/search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/isa.h"
#include "kernels/attention/attention.h"
#include "prefill/prefill.h"

namespace minference::search {
namespace {

using sparse::HeadPattern;
using sparse::Pattern;

constexpr std::int64_t kQueryHeads = 4, kKvHeads = 2, kQueryRows = 333, kKeyRows = 401, kDim = 64;
// [rows, heads, dim] memory with a gap behind every row, as engines hand tensors over.
constexpr std::int64_t kGap = 8;

class Tensors {
 public:
  Tensors() {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    for (auto* data : {&query_, &key_, &value_})
      for (float& x : *data) x = normal(random);
  }
  Layer layer() const {
    return {view(query_, kQueryHeads, kQueryRows), view(key_, kKvHeads, kKeyRows),
            view(value_, kKvHeads, kKeyRows), 0.3f};
  }

 private:
  static base::InputHeads view(const std::vector<float>& data, std::int64_t heads, std::int64_t rows) {
    return {data.data(), base::DType::f32, heads, rows, kDim, kDim, heads * kDim + kGap};
  }
  std::vector<float> query_ = std::vector<float>(kQueryRows * (kQueryHeads * kDim + kGap));
  std::vector<float> key_ = std::vector<float>(kKeyRows * (kKvHeads * kDim + kGap));
  std::vector<float> value_ = std::vector<float>(kKeyRows * (kKvHeads * kDim + kGap));
};

std::vector<HeadPattern> everywhere(const std::vector<HeadPattern>& patterns) {
  std::vector<HeadPattern> heads;
  for (const auto& pattern : patterns) heads.insert(heads.end(), kQueryHeads, pattern);
  return heads;
}

std::vector<Score> scores_of(const Layer& layer, const std::vector<HeadPattern>& candidates) {
  const auto executor = base::make_thread_pool(2);
  std::vector<Score> scores(candidates.size(), Score{NAN, NAN, NAN, NAN, -1, -1});
  score(layer, candidates, base::choose_isa(""), *executor, scores);
  return scores;
}

// Error and kept mass of an A-shape head in double precision, straight from their definitions.
Score reference(const Layer& layer, std::int64_t head, std::int64_t sink, std::int64_t local) {
  const std::int64_t kv_head = head / (kQueryHeads / kKvHeads);
  double moved = 0, whole = 0, mass = 0, mass_last = 0;
  for (std::int64_t r = 0; r < kQueryRows; ++r) {
    const std::int64_t position = kKeyRows - kQueryRows + r;
    const float* q = layer.query.row<const float>(head, r);
    std::vector<double> dense(kDim), kept(kDim);
    double dense_sum = 0, kept_sum = 0;
    for (std::int64_t k = 0; k <= position; ++k) {
      const float* key = layer.key.row<const float>(kv_head, k);
      const float* value = layer.value.row<const float>(kv_head, k);
      double dot = 0;
      for (std::int64_t d = 0; d < kDim; ++d) dot += double(q[d]) * key[d];
      const double weight = std::exp(dot * layer.softmax_scale);
      const bool inside = k < sink || position - k < local;
      dense_sum += weight;
      kept_sum += inside ? weight : 0;
      for (std::int64_t d = 0; d < kDim; ++d) {
        dense[d] += weight * value[d];
        kept[d] += inside ? weight * value[d] : 0;
      }
    }
    for (std::int64_t d = 0; d < kDim; ++d) {
      const double full = dense[d] / dense_sum, difference = kept[d] / kept_sum - full;
      moved += difference * difference;
      whole += full * full;
    }
    mass += kept_sum / dense_sum;
    if (r >= kQueryRows - 64) mass_last += kept_sum / dense_sum;
  }
  return {
      .error = std::sqrt(moved / whole), .kept_mass = mass / kQueryRows, .kept_mass_last = mass_last / 64};
}

TEST(Search, ScoresAreThoseOfTheirDefinitions) {
  const Tensors tensors;
  const Layer layer = tensors.layer();
  const auto scores = scores_of(
      layer, everywhere({{Pattern::a_shape, {3, 70}}, {Pattern::dense, {}}, {Pattern::a_shape, {0, 1}}}));
  for (std::int64_t h = 0; h < kQueryHeads; ++h) {
    const std::int64_t sizes[][2] = {{3, 70}, {kKeyRows, 1}, {0, 1}};
    for (std::size_t c = 0; c < 3; ++c) {
      const Score expected = reference(layer, h, sizes[c][0], sizes[c][1]);
      const Score& found = scores[c * kQueryHeads + static_cast<std::size_t>(h)];
      EXPECT_NEAR(found.error, expected.error, 1e-5) << c << ' ' << h;
      EXPECT_NEAR(found.kept_mass, expected.kept_mass, 1e-5) << c << ' ' << h;
      EXPECT_NEAR(found.kept_mass_last, expected.kept_mass_last, 1e-5) << c << ' ' << h;
    }
    EXPECT_GT(scores[static_cast<std::size_t>(h)].error, 0.1);
    const Score& dense = scores[kQueryHeads + static_cast<std::size_t>(h)];
    EXPECT_EQ(dense.error, 0);
    EXPECT_EQ(dense.cost, 1);
    EXPECT_EQ(dense.pairs, dense.all_pairs);
  }
}

TEST(Search, EveryHeadHasItsOwnCandidate) {
  const Tensors tensors;
  std::vector<HeadPattern> heads = everywhere({{Pattern::dense, {}}});
  heads[2] = {Pattern::vertical_slash, {30, 50}};
  const auto scores = scores_of(tensors.layer(), heads);
  EXPECT_EQ(scores[1].error, 0);
  EXPECT_GT(scores[2].error, 0.1);
  EXPECT_LT(scores[2].cost, 1);
}

TEST(Search, FittedSizesAreTheLargestThatCostNoMore) {
  const Tensors tensors;
  const Layer layer = tensors.layer();
  const auto executor = base::make_thread_pool(2);
  const std::vector<HeadPattern> wanted = everywhere({{Pattern::a_shape, {10, 999}},
                                                      {Pattern::vertical_slash, {0, 50}},
                                                      {Pattern::vertical_slash, {40, 0}},
                                                      {Pattern::block_sparse, {0, 0}}});
  const std::vector<Free> free = {Free::second_size, Free::first_size, Free::second_size, Free::first_size};
  constexpr double kCost = 0.8;
  auto fitted = wanted;
  fit(layer, free, kCost, false, base::choose_isa(""), *executor, fitted);
  auto above = fitted;
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    const auto size = static_cast<std::size_t>(free[i / kQueryHeads]);
    EXPECT_EQ(fitted[i].size[1 - size], wanted[i].size[1 - size]) << i;
    above[i].size[size] += 1;
  }
  const auto scores = scores_of(layer, fitted), scores_above = scores_of(layer, above);
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    const auto size = static_cast<std::size_t>(free[i / kQueryHeads]);
    EXPECT_LE(scores[i].cost, kCost) << i;
    EXPECT_GT(fitted[i].size[size], 1) << i;
    if (fitted[i].size[size] < kKeyRows) EXPECT_GT(scores_above[i].cost, kCost) << i;
  }
}

TEST(Search, SharedSizesMeetTheMeanCost) {
  const Tensors tensors;
  const Layer layer = tensors.layer();
  const auto executor = base::make_thread_pool(2);
  auto fitted = everywhere({{Pattern::vertical_slash, {40, 0}}});
  const std::vector<Free> free = {Free::second_size};
  constexpr double kCost = 0.85;
  fit(layer, free, kCost, true, base::choose_isa(""), *executor, fitted);
  const auto mean_cost = [&](const std::vector<HeadPattern>& heads) {
    double sum = 0;
    for (const Score& score : scores_of(layer, heads)) sum += score.cost / kQueryHeads;
    return sum;
  };
  auto above = fitted;
  for (auto& head : above) {
    EXPECT_EQ(head, fitted[0]);
    ++head.size[1];
  }
  EXPECT_GT(fitted[0].size[1], 1);
  EXPECT_LE(mean_cost(fitted), kCost);
  EXPECT_GT(mean_cost(above), kCost);
}

TEST(Search, WhatCostsTooMuchHasSizeOne) {
  const Tensors tensors;
  const auto executor = base::make_thread_pool(1);
  auto fitted = everywhere({{Pattern::vertical_slash, {77, 300}}});
  const std::vector<Free> free = {Free::second_size};
  fit(tensors.layer(), free, 1e-6, false, base::choose_isa(""), *executor, fitted);
  for (const auto& head : fitted) {
    EXPECT_EQ(head.size[0], 77);
    EXPECT_EQ(head.size[1], 1);
  }
}

}  // namespace
}  // namespace minference::search
