// How exact: every kernel against attention in double precision, on every kind of shape and index.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

#include "kernels/attention/reference.h"
#include "kernels/attention/testing.h"

namespace minference::kernels::testing {
namespace {

float round_to(DType dtype, float x) {
  float rounded = 0;
  base::store_float(&rounded, dtype, 0, x);
  return base::load_float(&rounded, dtype, 0);
}

// The same computation without blocking: f32 scores, f32 softmax, probabilities rounded to the input type,
// f32 sums.
ReferenceRow naive_row(const Problem& p, std::int64_t head, std::int64_t row) {
  const AttentionCall& call = p.call;
  const std::int64_t kv_head = head / p.shape.group;
  const auto element = [](const base::InputHeads& x, std::int64_t h, std::int64_t r, std::int64_t d) {
    return base::load_float(x.data, x.dtype, h * x.head_stride + r * x.row_stride + d);
  };
  std::vector<float> scores(static_cast<std::size_t>(p.shape.kv_len),
                            -std::numeric_limits<float>::infinity());
  float max = -std::numeric_limits<float>::infinity();
  for (std::int64_t k = 0; k < p.shape.kv_len; ++k) {
    if (!attends(p.index, head, row, k)) continue;
    float dot = 0;
    for (std::int64_t d = 0; d < p.shape.head_dim; ++d) {
      dot += element(call.query, head, row, d) * element(call.key, kv_head, k, d);
    }
    scores[static_cast<std::size_t>(k)] = dot * call.softmax_scale;
    max = std::max(max, dot * call.softmax_scale);
  }
  float sum = 0;
  std::vector<float> acc(static_cast<std::size_t>(p.shape.head_dim));
  for (std::int64_t k = 0; k < p.shape.kv_len; ++k) {
    if (std::isinf(scores[static_cast<std::size_t>(k)])) continue;
    const float probability = std::exp(scores[static_cast<std::size_t>(k)] - max);
    sum += probability;
    for (std::int64_t d = 0; d < p.shape.head_dim; ++d) {
      acc[static_cast<std::size_t>(d)] +=
          round_to(p.shape.dtype, probability) * element(call.value, kv_head, k, d);
    }
  }
  ReferenceRow result;
  for (const float x : acc) result.out.push_back(sum > 0 ? round_to(p.shape.dtype, x / sum) : 0);
  if (sum > 0) result.lse = max + std::log(sum);
  return result;
}

// |a - b| / |b|, 2-norms.
template <class Values>
double row_error(const Values& value_at, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t d = 0; d < expected.size(); ++d) {
    const double delta = value_at(d) - expected[d];
    difference += delta * delta;
    norm += expected[d] * expected[d];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

double error_floor(DType dtype) {
  return dtype == DType::f32 ? 1e-6 : dtype == DType::f16 ? 1e-3 : 4e-3;
}
double lse_bound(DType dtype) {
  return dtype == DType::f32 ? 1e-5 : 1e-3;
}

struct Expected {
  std::int64_t head, row;
  ReferenceRow reference;
};

struct Expectations {
  std::vector<Expected> rows;
  double naive_error = 0, naive_lse_error = 0;  // worst rows
};

// Every row near an edge of a row block, and a sample of the others.
Expectations expect(const Problem& p) {
  Expectations expectations;
  for (std::int64_t head = 0; head < p.heads(); ++head) {
    for (std::int64_t row = 0; row < p.shape.q_len; ++row) {
      const std::int64_t in_block = row % 64;
      const bool edge = row < 2 || row + 1 >= p.shape.q_len || row == p.shape.q_len - p.shape.last_dense_rows;
      if (!edge && in_block != 0 && in_block != 63 && (row + 11 * head) % 29 != 0) continue;
      Expected e{head, row, reference_attention(p.call, head, row, [&](std::int64_t k) {
                   return attends(p.index, head, row, k);
                 })};
      const ReferenceRow naive = naive_row(p, head, row);
      const double error = row_error([&](std::size_t d) { return naive.out[d]; }, e.reference.out);
      expectations.naive_error = std::max(expectations.naive_error, error);
      if (std::isfinite(naive.lse)) {
        expectations.naive_lse_error =
            std::max(expectations.naive_lse_error, std::abs(naive.lse - e.reference.lse));
      }
      expectations.rows.push_back(std::move(e));
    }
  }
  return expectations;
}

void check_rows(const Problem& p, const Expectations& expectations) {
  const double bound = 2 * expectations.naive_error + error_floor(p.shape.dtype);
  // Scores of hundreds are not sums that f32 holds to 1e-5: the naive computation says how far off it must
  // be.
  const double max_lse_error = 2 * expectations.naive_lse_error + lse_bound(p.shape.dtype);
  double worst = 0;
  int failures = 0;
  for (const Expected& e : expectations.rows) {
    const auto value_at = [&](std::size_t d) {
      return p.output(e.head, e.row, static_cast<std::int64_t>(d));
    };
    const double error = row_error(value_at, e.reference.out);
    worst = std::max(worst, error);
    if (!(error <= bound) && ++failures <= 3) {
      ADD_FAILURE() << "head " << e.head << " row " << e.row << ": error " << error << " above " << bound;
    }
    const double lse = p.call.lse.at(e.head, e.row);
    const bool lse_right = lse == e.reference.lse || std::abs(lse - e.reference.lse) <= max_lse_error;
    if (!lse_right && ++failures <= 3) {
      ADD_FAILURE() << "head " << e.head << " row " << e.row << ": lse " << lse << ", expected "
                    << e.reference.lse;
    }
  }
  EXPECT_EQ(failures, 0) << "worst error " << worst << ", bound " << bound << ", of "
                         << expectations.rows.size() << " rows";
}

// Every kernel that this instruction set runs, on one case.
void check_case(const Case& c, std::uint32_t seed) {
  Problem p(c, seed);
  const Expectations expectations = expect(p);
  const auto executor = base::make_thread_pool(1);
  for (const AttentionKernel* kernel : kernels_for(c.dtype, c.head_dim)) {
    std::ostringstream what;
    what << kernel->name << ' ' << c << " seed " << seed;
    SCOPED_TRACE(what.str());
    p.reset_outputs();
    kernel->run(p.call, *executor);
    check_guards(p);
    check_rows(p, expectations);

    // The output is the same whether an LSE is wanted or not.
    const auto with_lse = p.out.bytes;
    p.reset_outputs();
    AttentionCall call = p.call;
    call.lse = {};
    kernel->run(call, *executor);
    ASSERT_TRUE(p.out.bytes == with_lse);
  }
}

TEST(Attention, EveryShapeMatchesTheReference) {
  std::uint32_t seed = 0;
  for (const DType dtype : kDTypes) {
    for (const std::int64_t head_dim : {64, 80, 96, 128, 192, 256, 8, 40}) {
      for (const std::int64_t group : {1, 4, 7, 8}) {
        for (const IndexForm form : kForms) {
          ++seed;
          check_case({.dtype = dtype,
                      .head_dim = head_dim,
                      .group = group,
                      .form = form,
                      .q_len = 70 + seed % 63,
                      .kv_len = 135 + seed % 97,
                      .causal = seed % 5 != 0,
                      .last_dense_rows = seed % 3 == 0 ? 37 : 0,
                      .in_place = seed % 2 == 0},
                     seed);
        }
      }
    }
  }
}

// Whatever a probability is rounded to, it is divided by the same.
TEST(Attention, RowsWithOneKeyAreItsValue) {
  const auto executor = base::make_thread_pool(1);
  for (const DType dtype : kDTypes) {
    Problem p({.dtype = dtype, .form = IndexForm::window, .q_len = 300, .kv_len = 300}, 1);
    for (sparse::HeadIndex& head : p.index.heads) head.local = 1, head.sink = 0;
    for (const AttentionKernel* kernel : kernels_for(dtype, p.shape.head_dim)) {
      SCOPED_TRACE(kernel->name);
      p.reset_outputs();
      kernel->run(p.call, *executor);
      const base::InputHeads& value = p.call.value;
      for (std::int64_t head = 0; head < p.heads(); ++head) {
        for (std::int64_t i = 0; i < p.shape.q_len * p.shape.head_dim; ++i) {
          const std::int64_t row = i / p.shape.head_dim, d = i % p.shape.head_dim;
          const std::int64_t offset = head / p.shape.group * value.head_stride + row * value.row_stride + d;
          ASSERT_EQ(p.output(head, row, d), base::load_float(value.data, dtype, offset)) << "row " << row;
        }
      }
    }
  }
}

// Equal scores too large for exponentials from a table: every row is the mean of its values. AMX keeps no such rows
// (docs/numerics.md).
TEST(Attention, ScoresBeyondWholeReferences) {
  const auto executor = base::make_thread_pool(1);
  for (const DType dtype : kDTypes) {
    Problem p({.dtype = dtype, .form = IndexForm::all, .q_len = 200, .kv_len = 200}, 1);
    for (Memory* memory : {&p.query, &p.key}) {
      const auto count = static_cast<std::int64_t>(memory->bytes.size() / base::size_of(dtype));
      for (std::int64_t i = 0; i < count; ++i) base::store_float(memory->bytes.data(), dtype, i, 8192);
    }
    const Expectations expectations = expect(p);
    for (const AttentionKernel* kernel : kernels_for(dtype, p.shape.head_dim)) {
      if (std::string_view(kernel->name) == "amx") continue;
      SCOPED_TRACE(kernel->name);
      p.reset_outputs();
      kernel->run(p.call, *executor);
      check_rows(p, expectations);
    }
  }
}

TEST(Attention, OddLengths) {
  std::uint32_t seed = 1000;
  for (const DType dtype : kDTypes) {
    for (const std::int64_t q_len : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129}) {
      for (const std::int64_t past : {0, 1, 3, 64, 257}) {
        for (const IndexForm form : kForms) {
          ++seed;
          check_case({.dtype = dtype,
                      .form = form,
                      .q_len = q_len,
                      .kv_len = q_len + past,
                      .in_place = seed % 2 == 0},
                     seed);
        }
      }
    }
  }
}

// Scores of hundreds: references must move, and the scale must not have been rounded into the query.
TEST(Attention, LargeScores) {
  std::uint32_t seed = 2000;
  for (const DType dtype : kDTypes) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const IndexForm form : kForms) {
        for (const bool causal : {true, false}) {
          check_case({.dtype = dtype,
                      .head_dim = head_dim,
                      .group = 4,
                      .form = form,
                      .q_len = 200,
                      .kv_len = 333,
                      .causal = causal,
                      .key_scale = 40},
                     ++seed);
        }
      }
    }
  }
}

// Rows whose first tile holds no key of theirs, followed by scores far from the first ones.
TEST(Attention, RowsThatStartLate) {
  for (const DType dtype : kDTypes) {
    Problem p({.dtype = dtype, .form = IndexForm::relative, .q_len = 192, .kv_len = 192, .key_scale = 40});
    for (sparse::HeadIndex& head : p.index.heads) {
      head.tiles = {40, -24, -111};
      head.columns = {0, 1, 50, 130};
    }
    const Expectations expectations = expect(p);
    const auto executor = base::make_thread_pool(1);
    for (const AttentionKernel* kernel : kernels_for(dtype, 64)) {
      SCOPED_TRACE(kernel->name);
      p.reset_outputs();
      kernel->run(p.call, *executor);
      check_guards(p);
      check_rows(p, expectations);
    }
  }
}

// Scores that rise along the keys by 0 to 100, and at the last key, which only the last row attends to, by 15: sums
// relative to what a row met first become as large, or as small, as a kernel lets them.
TEST(Attention, LargeAndSmallValuesAtAnyScores) {
  constexpr DType kType = DType::bf16;  // f32 holds no scores of 100 to what it is held to
  for (const float value_scale : {0x1p62f, 0x1p-50f}) {
    for (const float rise : {0.0f, 27.0f, 40.0f, 55.0f, 69.0f, 84.0f, 100.0f}) {
      Problem p({.dtype = kType, .q_len = 70, .kv_len = 300});
      for (std::int64_t head = 0; head < kNumKvHeads; ++head) {
        const auto change = [&](Memory& m, std::int64_t row, std::int64_t d, float factor, float addend) {
          const std::int64_t i = head * m.head_stride + row * m.row_stride + d;
          base::store_float(m.bytes.data(), kType, i,
                            factor * base::load_float(m.bytes.data(), kType, i) + addend);
        };
        for (std::int64_t d = 0; d < p.shape.head_dim; ++d) {
          for (std::int64_t row = 0; row < p.shape.q_len; ++row) change(p.query, row, d, 0, d == 0 ? 8 : 0);
          for (std::int64_t k = 0; k < p.shape.kv_len; ++k) {
            const float score = k == p.shape.kv_len - 1 ? 15 : k >= 64 && k < 128 ? rise : 0;
            change(p.key, k, d, 1, d == 0 ? score : 0);
            change(p.value, k, d, value_scale, 0);
          }
        }
      }
      const Expectations expectations = expect(p);
      const auto executor = base::make_thread_pool(1);
      for (const AttentionKernel* kernel : kernels_for(kType, p.shape.head_dim)) {
        SCOPED_TRACE(::testing::Message() << kernel->name << ", values " << value_scale << ", rise " << rise);
        p.reset_outputs();
        kernel->run(p.call, *executor);
        check_guards(p);
        check_rows(p, expectations);
      }
    }
  }
}

}  // namespace
}  // namespace minference::kernels::testing
