#include "kernels/estimate/cuda/warp_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/estimate/cuda/streams.h"

namespace minference::kernels::cuda {
namespace {

// A warp on the host: 32 floats a value.
struct WarpValue {
  std::array<float, 32> lane{};
};

WarpValue operator+(const WarpValue& a, const WarpValue& b) {
  WarpValue sum;
  for (int l = 0; l < 32; ++l) sum.lane[l] = a.lane[l] + b.lane[l];
  return sum;
}

WarpValue operator*(const WarpValue& a, const WarpValue& b) {
  WarpValue product;
  for (int l = 0; l < 32; ++l) product.lane[l] = a.lane[l] * b.lane[l];
  return product;
}

struct HostWords {
  using Value = WarpValue;

  template <class F>
  static WarpValue map(F f) {
    WarpValue result;
    for (int l = 0; l < 32; ++l) result.lane[l] = f(l);
    return result;
  }
  static WarpValue fill(float x) {
    return map([=](int) { return x; });
  }
  static WarpValue maximum(const WarpValue& a, const WarpValue& b) {
    return map([&](int l) { return std::max(a.lane[l], b.lane[l]); });
  }
  static WarpValue exp2(const WarpValue& x) {
    return map([&](int l) { return std::exp2(x.lane[l]); });
  }
  static WarpValue scaled(const WarpValue& a, float b, const WarpValue& c) {
    return map([&](int l) { return a.lane[l] * b - c.lane[l]; });
  }
  static WarpValue scaled(const WarpValue& a, const WarpValue& b, const WarpValue& c) {
    return map([&](int l) { return a.lane[l] * b.lane[l] - c.lane[l]; });
  }
  template <class Place>
  static WarpValue select(Place place, const WarpValue& a, const WarpValue& b) {
    return map([&](int l) { return place(l) ? a.lane[l] : b.lane[l]; });
  }
  template <class Place>
  static WarpValue shuffle(const WarpValue& x, Place place) {
    return map([&](int l) { return x.lane[place(l)]; });
  }
  template <class Test>
  static bool any(Test test, const WarpValue& x) {
    return std::any_of(x.lane.begin(), x.lane.end(), test);
  }
};

// One head's raw scores [64, kv_len] of a call of q_len rows, walked as the kernels walk them.
struct Head {
  std::int32_t q_len, kv_len;
  float scale;
  std::vector<float> score;

  Head(std::int32_t q, std::int32_t kv, float spread) : q_len(q), kv_len(kv), scale(0.3f), score(64 * kv) {
    std::mt19937 rng(static_cast<unsigned>(q * 1000 + kv));
    std::normal_distribution<float> normal(0.0f, spread);
    for (float& x : score) x = normal(rng);
  }

  // A step as the tensor cores leave it: scores of absent rows and keys are 0.
  StepScores<HostWords> step(std::int32_t key, std::int32_t end) const {
    StepScores<HostWords> scores;
    for (int octet = 0; octet < kOctets; ++octet)
      for (int n = 0; n < kQueryTiles; ++n)
        for (int e = 0; e < 2; ++e)
          scores.at[octet][n][e] = HostWords::map([&](int l) {
            const std::int32_t k = key + 8 * octet + l / 4, row = 8 * n + 2 * (l % 4) + e;
            return k < end && row >= 64 - q_len ? score[row * kv_len + k] : 0.0f;
          });
    const std::int32_t first_key = key - (kv_len - kQueryRows);
    if (first_key + kStepKeys - 1 > 0) scores.mask(first_key);
    return scores;
  }

  template <class Body>
  void walk(const Streams& streams, std::int32_t stream, Body&& body) const {
    const std::int32_t end = streams.end(stream);
    for (std::int32_t key = streams.begin(stream); key < end; key += kStepKeys) {
      StepScores<HostWords> scores = step(key, end);
      body(key, scores);
    }
  }

  double expected_lse(int row) const {
    double largest = -1e30, sum = 0;
    for (std::int32_t k = 0; k <= kv_len - 64 + row; ++k)
      largest = std::max(largest, double{score[row * kv_len + k]} * scale);
    for (std::int32_t k = 0; k <= kv_len - 64 + row; ++k)
      sum += std::exp2(double{score[row * kv_len + k]} * scale - largest);
    return largest + std::log2(sum);
  }
};

std::vector<double> lse_of(const Head& head, const Streams& streams) {
  std::vector<double> reference(64, kNoScore), sum(64, 0.0);
  for (std::int32_t s = 0; s < streams.count; ++s) {
    RowStatistics<HostWords> rows;
    head.walk(streams, s, [&](std::int32_t, const auto& scores) { rows.add(scores, head.scale); });
    rows.merge();
    for (int row = 0; row < 64; ++row) {
      const int lane = row % 8 / 2;
      const double r = rows.reference[row / 8][row % 2].lane[lane], x = rows.sum[row / 8][row % 2].lane[lane];
      const double raised = std::max(reference[row], r);
      sum[row] = sum[row] * std::exp2(reference[row] - raised) + x * std::exp2(r - raised);
      reference[row] = raised;
    }
  }
  std::vector<double> lse(64);
  for (int row = 0; row < 64; ++row)
    lse[row] = row < 64 - head.q_len ? -kNoScore : reference[row] + std::log2(sum[row]);
  return lse;
}

struct Sums {
  std::vector<double> column, diagonal;
};

Sums sums_of(const Head& head, const Streams& streams, const std::vector<double>& lse) {
  // NaN where nothing is written.
  Sums sums{std::vector<double>(head.kv_len, NAN), std::vector<double>(head.kv_len, NAN)};
  std::vector<std::vector<double>> carries(streams.count, std::vector<double>(63, NAN));
  WarpValue lane_lse[kQueryTiles][2];
  for (int n = 0; n < kQueryTiles; ++n)
    for (int e = 0; e < 2; ++e)
      lane_lse[n][e] =
          HostWords::map([&](int l) { return static_cast<float>(lse[8 * n + 2 * (l % 4) + e]); });
  for (std::int32_t s = 0; s < streams.count; ++s) {
    const std::int32_t begin = streams.begin(s), end = streams.end(s);
    const auto key_of = [](int lane) { return 8 * (lane % 4) + lane / 4; };
    const auto write_diagonals = [&](std::int32_t first, const WarpValue& sum) {
      for (int l = 0; l < 32; ++l) {
        const DiagonalPlace place = DiagonalPlace::of(first + key_of(l), begin, end, head.kv_len);
        double* to = place.owned        ? &sums.diagonal.at(place.offset)
                     : place.carry >= 0 ? &carries[s].at(place.carry)
                                        : nullptr;
        if (!to) continue;
        EXPECT_TRUE(std::isnan(*to)) << "written twice";
        *to = sum.lane[l];
      }
    };
    PairSums<HostWords> pairs;
    head.walk(streams, s, [&](std::int32_t key, auto& scores) {
      scores.weigh(head.scale, lane_lse);
      const auto step = pairs.add(scores);
      for (int l = 0; l < 32; ++l)
        if (key + key_of(l) < end) sums.column[key + key_of(l)] = step.column.lane[l];
      write_diagonals(key, step.diagonal);
    });
    const std::int32_t drained = begin + base::round_up(end - begin, kStepKeys);
    write_diagonals(drained, pairs.drain());
    write_diagonals(drained + kStepKeys, pairs.drain());
  }
  for (std::int32_t s = 0; s + 1 < streams.count; ++s)
    for (int i = 0; i < 63; ++i)
      if (const std::int32_t offset = head.kv_len - streams.end(s) - 1 - i; offset >= 0)
        sums.diagonal[offset] += carries[s][i];
  return sums;
}

struct Lengths {
  std::int32_t q_len, kv_len, stream_keys;
};

class WarpSums : public testing::TestWithParam<Lengths> {};

TEST_P(WarpSums, AreTheDefinitions) {
  const auto [q_len, kv_len, stream_keys] = GetParam();
  for (const float spread : {1.0f, 60.0f, 400.0f}) {
    const Head head(q_len, kv_len, spread);
    const Streams streams{kv_len, stream_keys, base::divide_up(kv_len, stream_keys)};
    const std::vector<double> lse = lse_of(head, streams);
    for (int row = std::max(0, 64 - q_len); row < 64; ++row)
      ASSERT_NEAR(lse[row], head.expected_lse(row), 2e-6 * std::max(1.0, std::abs(lse[row])))
          << "row " << row;

    Sums expected{std::vector<double>(kv_len), std::vector<double>(kv_len)};
    for (int row = std::max(0, 64 - q_len); row < 64; ++row)
      for (std::int32_t k = 0; k <= kv_len - 64 + row; ++k) {
        const double weight = std::exp2(double{head.score[row * kv_len + k]} * head.scale - lse[row]);
        expected.column[k] += weight;
        expected.diagonal[kv_len - 64 + row - k] += weight;
      }
    const Sums sums = sums_of(head, streams, lse);
    for (std::int32_t i = 0; i < kv_len; ++i) {
      // NaN fails.
      ASSERT_NEAR(sums.column[i], expected.column[i], 1e-4 * expected.column[i] + 1e-30) << "key " << i;
      ASSERT_NEAR(sums.diagonal[i], expected.diagonal[i], 1e-4 * expected.diagonal[i] + 1e-30)
          << "offset " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WarpSums,
                         testing::Values(Lengths{1, 1, 64}, Lengths{1, 70, 64}, Lengths{3, 5, 64},
                                         Lengths{63, 63, 64}, Lengths{64, 64, 64}, Lengths{64, 65, 64},
                                         Lengths{65, 65, 64}, Lengths{17, 200, 64}, Lengths{64, 128, 64},
                                         Lengths{64, 127, 64}, Lengths{100, 193, 64}, Lengths{64, 300, 128},
                                         Lengths{200, 257, 128}, Lengths{64, 700, 192}));

TEST(Streams, CoverTheKeys) {
  for (std::int64_t kv_len = 1; kv_len < 2000000; kv_len += 1 + kv_len / 3) {
    const Streams streams = Streams::of(kv_len);
    EXPECT_GE(streams.stream_keys, 64);
    EXPECT_EQ(streams.stream_keys % kStepKeys, 0);
    EXPECT_EQ(streams.end(streams.count - 1), kv_len);
    EXPECT_LT(streams.begin(streams.count - 1), kv_len);
  }
}

}  // namespace
}  // namespace minference::kernels::cuda
