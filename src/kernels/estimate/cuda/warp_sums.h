#pragma once

#include <cmath>

#include "base/host_device.h"

// What a warp does with scores, for the device and, simulated, for the host's tests.
//
// A warp walks a stretch of consecutive keys, its *stream*, 32 keys a step, with the 64 query rows of one
// head. Lane l holds the scores of the step's keys 8 octet + l / 4 and of query rows 8 n + 2 (l % 4) + e:
// score[octet][n][e], octet < 4, n < 8, e < 2. These are two accumulators of mma.m16n8k16 side by side
// (PTX ISA), keys along m, queries along n.
//
// Words: Value, a float a lane, with + and *; zero(); maximum(a, b); exp2(x); scaled(a, b, c) = a * b - c, b
// one float for all lanes; select(f, a, b): a in lanes where f(lane), else b; shuffle(x, f): x of lane
// f(lane); any(f, x): whether f(x of a lane) holds in some lane.
namespace minference::kernels::cuda {

inline constexpr int kStepKeys = 32;
inline constexpr int kOctets = kStepKeys / 8;
inline constexpr int kQueryTiles = 8;
inline constexpr int kQueryRows = 8 * kQueryTiles;

// Stands for "no attention" where a difference of two must stay a number; 2 to its power is 0.
inline constexpr float kNoScore = -1e30f;

// Lane l of four values gets value l % 4, summed over the lanes of l's quad.
template <class Words>
MINFERENCE_HD typename Words::Value sum_over_quads(const typename Words::Value (&value)[4]) {
  using Value = typename Words::Value;
  const auto upper = [](int lane) { return lane % 4 >= 2; };
  const auto odd = [](int lane) { return lane % 2 == 1; };
  Value half[2];
  for (int i = 0; i < 2; ++i) {
    const Value sent = Words::select(upper, value[i], value[i + 2]);
    half[i] = Words::select(upper, value[i + 2], value[i]) +
              Words::shuffle(sent, [](int lane) { return lane ^ 2; });
  }
  const Value sent = Words::select(odd, half[0], half[1]);
  return Words::select(odd, half[1], half[0]) + Words::shuffle(sent, [](int lane) { return lane ^ 1; });
}

template <class Words>
struct StepScores {
  using Value = typename Words::Value;
  Value at[kOctets][kQueryTiles][2];

  // Hides keys right of the rows' positions; `first_key` is the step's, counted from the position of row 0.
  MINFERENCE_HD void mask(int first_key) {
    MINFERENCE_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) {
      const auto hidden = [=](int lane) {
        return first_key + 8 * octet + lane / 4 > 8 * n + 2 * (lane % 4) + e;
      };
      at[octet][n][e] = Words::select(hidden, Words::fill(-INFINITY), at[octet][n][e]);
    }
  }

  // Scores become probabilities: 2^(scale * score - lse).
  MINFERENCE_HD void weigh(float scale, const Value (&lse)[kQueryTiles][2]) {
    MINFERENCE_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e)
      at[octet][n][e] = Words::exp2(Words::scaled(at[octet][n][e], scale, lse[n][e]));
  }
};

// Softmax statistics of a stream's rows, in units of log 2: sum of 2^(score - reference). The reference
// follows the largest score only when that is kSlack above it, which leaves f32 sums far from overflow. A
// lane sums its own keys; merge() puts lanes together.
template <class Words>
class RowStatistics {
 public:
  using Value = typename Words::Value;
  static constexpr float kSlack = 16.0f;

  MINFERENCE_HD RowStatistics() {
    MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) {
      reference[n][e] = Words::fill(kNoScore);
      sum[n][e] = Words::fill(0.0f);
    }
  }

  MINFERENCE_HD void add(const StepScores<Words>& scores, float scale) {
    Value excess = Words::fill(kNoScore);
    MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e)
      excess = Words::maximum(excess, Words::scaled(largest(scores, n, e), scale, reference[n][e]));
    if (Words::any([](float x) { return x > kSlack; }, excess)) {
      MINFERENCE_UNROLL
      for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
      for (int e = 0; e < 2; ++e) raise(n, e, Words::scaled(largest(scores, n, e), scale, Words::fill(0.0f)));
    }
    MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) MINFERENCE_UNROLL
    for (int octet = 0; octet < kOctets; ++octet)
      sum[n][e] = sum[n][e] + Words::exp2(Words::scaled(scores.at[octet][n][e], scale, reference[n][e]));
  }

  // Lanes 0 .. 3 then hold the rows of all lanes.
  MINFERENCE_HD void merge() {
    MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) MINFERENCE_UNROLL
    for (int distance = 4; distance < 32; distance *= 2) {
      const auto partner = [=](int lane) { return lane ^ distance; };
      const Value other_reference = Words::shuffle(reference[n][e], partner);
      const Value other_sum = Words::shuffle(sum[n][e], partner);
      const Value raised = Words::maximum(reference[n][e], other_reference);
      sum[n][e] = sum[n][e] * Words::exp2(Words::scaled(reference[n][e], 1.0f, raised)) +
                  other_sum * Words::exp2(Words::scaled(other_reference, 1.0f, raised));
      reference[n][e] = raised;
    }
  }

  Value reference[kQueryTiles][2];
  Value sum[kQueryTiles][2];

 private:
  MINFERENCE_HD static Value largest(const StepScores<Words>& scores, int n, int e) {
    Value result = scores.at[0][n][e];
    MINFERENCE_UNROLL
    for (int octet = 1; octet < kOctets; ++octet) result = Words::maximum(result, scores.at[octet][n][e]);
    return result;
  }

  MINFERENCE_HD void raise(int n, int e, const Value& score) {
    const Value raised = Words::maximum(reference[n][e], score);
    sum[n][e] = sum[n][e] * Words::exp2(Words::scaled(reference[n][e], 1.0f, raised));
    reference[n][e] = raised;
  }
};

// Column and diagonal sums of a stream's probabilities.
//
// In an 8 x 8 block of keys and query rows a lane holds the same place of every block, so blocks on one
// block diagonal (equal octet - n) add up lane by lane. Eight block diagonals are open at a time; each octet
// of keys completes one. A diagonal of pairs runs through two neighbouring block diagonals; rotating row by
// row in the shuffle brings its eight places into one row of lanes.
template <class Words>
class PairSums {
 public:
  using Value = typename Words::Value;

  MINFERENCE_HD PairSums() {
    MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) {
      complete_[e] = Words::fill(0.0f);
      MINFERENCE_UNROLL
      for (int p = 0; p < kQueryTiles - 1; ++p) open_[p][e] = Words::fill(0.0f);
    }
  }

  // For the step's key k = 8 (lane % 4) + lane / 4 after its first one: the sum over k's pairs, and the sum
  // over the stream's pairs so far with key - row = k - 64 (rows counted from 0, keys as k is): all that the
  // stream has.
  struct Sums {
    Value column, diagonal;
  };

  MINFERENCE_HD Sums add(const StepScores<Words>& weights) {
    Value column[kOctets], diagonal[kOctets];
    MINFERENCE_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) {
      column[octet] = weights.at[octet][0][0] + weights.at[octet][0][1];
      MINFERENCE_UNROLL
      for (int n = 1; n < kQueryTiles; ++n)
        column[octet] = column[octet] + (weights.at[octet][n][0] + weights.at[octet][n][1]);
      Value completed[2];
      MINFERENCE_UNROLL
      for (int e = 0; e < 2; ++e) {
        completed[e] = open_[0][e] + weights.at[octet][kQueryTiles - 1][e];
        MINFERENCE_UNROLL
        for (int p = 1; p < kQueryTiles - 1; ++p)
          open_[p - 1][e] = open_[p][e] + weights.at[octet][kQueryTiles - 1 - p][e];
        open_[kQueryTiles - 2][e] = weights.at[octet][0][e];
      }
      diagonal[octet] = rotate(completed);
      MINFERENCE_UNROLL
      for (int e = 0; e < 2; ++e) complete_[e] = completed[e];
    }
    return {sum_over_quads<Words>(column), sum_over_quads<Words>(diagonal)};
  }

  // As add() of a step without any weight: two of them bring out what the last 64 keys left open.
  MINFERENCE_HD Value drain() {
    StepScores<Words> nothing;
    MINFERENCE_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) MINFERENCE_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) nothing.at[octet][n][e] = Words::fill(0.0f);
    return add(nothing).diagonal;
  }

 private:
  // The eight diagonals x = key - row, 0 .. 7, between the block diagonal before and this one, in lanes
  // 4 x .. 4 x + 3, each with a quarter of the sum.
  MINFERENCE_HD Value rotate(const Value (&completed)[2]) const {
    Value part[2];
    MINFERENCE_UNROLL
    for (int e = 0; e < 2; ++e) {
      const auto before = [=](int lane) { return lane / 4 >= 2 * (lane % 4) + e; };
      const auto source = [=](int lane) { return (lane / 4 + 2 * (lane % 4) + e) % 8 * 4 + lane % 4; };
      part[e] = Words::shuffle(Words::select(before, complete_[e], completed[e]), source);
    }
    return part[0] + part[1];
  }

  Value open_[kQueryTiles - 1][2];
  Value complete_[2];
};

}  // namespace minference::kernels::cuda
