#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/reference.h"

namespace minference::kernels {
namespace {

using base::DType;
using sparse::IndexForm;

struct Case {
  DType dtype = DType::f32;
  std::int64_t head_dim = 64;
  std::int64_t group = 1;
  IndexForm form = IndexForm::all;
  std::int64_t q_len = 131;
  std::int64_t kv_len = 131;
  bool causal = true;
  std::int64_t last_dense_rows = 0;
  float key_scale = 1;
  bool in_place =
      false;  // heads contiguous, as a KV cache lies; otherwise tokens interleave heads at odd strides
};

std::string name_of(IndexForm form) {
  switch (form) {
    case IndexForm::all:
      return "all";
    case IndexForm::relative:
      return "relative";
    case IndexForm::window:
      return "window";
    default:
      return "blocks";
  }
}

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << base::name_of(c.dtype) << " head_dim " << c.head_dim << " group " << c.group << ' '
             << name_of(c.form) << " q_len " << c.q_len << " kv_len " << c.kv_len
             << (c.causal ? " causal" : " full") << " last_dense_rows " << c.last_dense_rows << " key_scale "
             << c.key_scale << (c.in_place ? " in place" : " strided");
}

constexpr std::int64_t kNumKvHeads = 2;

// Memory of one tensor with guard elements between its rows.
struct Memory {
  std::vector<char> bytes;
  std::int64_t head_stride, row_stride;

  Memory(DType dtype, std::int64_t heads, std::int64_t rows, std::int64_t dim, bool in_place) {
    head_stride = in_place ? rows * dim : dim + 1;
    row_stride = in_place ? dim : heads * (dim + 1) + 2;
    // 0xff everywhere is a NaN in every type.
    bytes.assign(static_cast<std::size_t>(heads * head_stride + rows * row_stride) * base::size_of(dtype),
                 '\xff');
  }
};

base::InputHeads view(const Memory& m, DType dtype, std::int64_t heads, std::int64_t rows, std::int64_t dim) {
  return {m.bytes.data(), dtype, heads, rows, dim, m.head_stride, m.row_stride};
}

// A descending list of disjoint tiles around the diagonal, some of them to its right, and columns anywhere.
void fill_relative(std::mt19937& random, const Case& c, sparse::HeadIndex& head) {
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  std::int64_t start = c.causal ? below(3) * 20 : c.q_len / 2;
  while (start > -c.kv_len) {
    head.tiles.push_back(static_cast<std::int32_t>(start));
    start -= 64 + below(2) * below(90);
  }
  for (std::int64_t k = 0; k < c.kv_len; ++k) {
    if (below(3) == 0) head.columns.push_back(static_cast<std::int32_t>(k));
  }
  // Some heads leave rows without any key.
  if (below(3) == 0) {
    head.tiles.resize(std::min<std::size_t>(head.tiles.size(), 1));
    head.tiles[0] = -70;
    head.columns.resize(std::min<std::size_t>(head.columns.size(), 1));
  }
}

void fill_blocks(std::mt19937& random, const Case& c, sparse::HeadIndex& head) {
  head.row_offsets.push_back(0);
  for (std::int64_t row = 0; row < c.q_len; row += sparse::kRowBlock) {
    for (std::int64_t block = 0; block * sparse::kKeyTile < c.kv_len; ++block) {
      if (random() % 2 == 0) head.key_blocks.push_back(static_cast<std::int32_t>(block));
    }
    head.row_offsets.push_back(static_cast<std::int64_t>(head.key_blocks.size()));
  }
}

sparse::SparseIndex make_index(std::mt19937& random, const Case& c) {
  sparse::SparseIndex index{.q_len = c.q_len, .kv_len = c.kv_len, .causal = c.causal, .heads = {}};
  for (std::int64_t h = 0; h < kNumKvHeads * c.group; ++h) {
    sparse::HeadIndex head;
    head.form = c.form;
    head.last_dense_rows = c.last_dense_rows;
    if (c.form == IndexForm::relative) fill_relative(random, c, head);
    if (c.form == IndexForm::blocks) fill_blocks(random, c, head);
    head.sink = static_cast<std::int64_t>(random() % 10);
    head.local = static_cast<std::int64_t>(random() % 100);
    index.heads.push_back(head);
  }
  return index;
}

// The index contract, pair by pair, from the index alone.
bool attends(const sparse::SparseIndex& index, std::int64_t head_index, std::int64_t row, std::int64_t key) {
  const sparse::HeadIndex& head = index.heads[static_cast<std::size_t>(head_index)];
  const std::int64_t position = index.kv_len - index.q_len + row;
  const std::int64_t block = row / 64;
  const std::int64_t block_position = index.kv_len - index.q_len + 64 * block;
  if (index.causal && key > position) return false;
  if (head.form == IndexForm::all || row >= index.q_len - head.last_dense_rows) return true;
  if (head.form == IndexForm::window) return key < head.sink || std::abs(position - key) < head.local;
  if (head.form == IndexForm::blocks) {
    const auto first = head.key_blocks.begin() + head.row_offsets[static_cast<std::size_t>(block)];
    const auto last = head.key_blocks.begin() + head.row_offsets[static_cast<std::size_t>(block) + 1];
    return std::find(first, last, key / 64) != last;
  }
  for (const std::int32_t start : head.tiles) {
    if (key >= block_position + start && key < block_position + start + 64) return true;
  }
  return std::find(head.columns.begin(), head.columns.end(), key) != head.columns.end();
}

struct Problem {
  Case shape;
  sparse::SparseIndex index;
  Memory query, key, value, out;
  std::vector<float> lse;
  AttentionCall call;

  explicit Problem(const Case& c, std::uint32_t seed = 1)
      : shape(c),
        query(c.dtype, kNumKvHeads * c.group, c.q_len, c.head_dim, c.in_place),
        key(c.dtype, kNumKvHeads, c.kv_len, c.head_dim, c.in_place),
        value(c.dtype, kNumKvHeads, c.kv_len, c.head_dim, c.in_place),
        out(c.dtype, kNumKvHeads * c.group, c.q_len, c.head_dim, false) {
    std::mt19937 random(seed);
    index = make_index(random, c);
    std::normal_distribution<float> normal;
    const auto fill = [&](Memory& m, std::int64_t heads, std::int64_t rows, float scale) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t d = 0; d < c.head_dim; ++d) {
            base::store_float(m.bytes.data(), c.dtype, h * m.head_stride + r * m.row_stride + d,
                              scale * normal(random));
          }
        }
      }
    };
    const std::int64_t heads = kNumKvHeads * c.group;
    fill(query, heads, c.q_len, 1);
    fill(key, kNumKvHeads, c.kv_len, c.key_scale);
    fill(value, kNumKvHeads, c.kv_len, 1);
    lse.assign(static_cast<std::size_t>(heads * c.q_len * 2), std::numeric_limits<float>::quiet_NaN());
    call.query = view(query, c.dtype, heads, c.q_len, c.head_dim);
    call.key = view(key, c.dtype, kNumKvHeads, c.kv_len, c.head_dim);
    call.value = view(value, c.dtype, kNumKvHeads, c.kv_len, c.head_dim);
    call.out = {out.bytes.data(), c.dtype, heads, c.q_len, c.head_dim, out.head_stride, out.row_stride};
    call.lse = {lse.data(), 2 * c.q_len, 2};
    call.softmax_scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    call.index = &index;
  }
  Problem(const Problem&) = delete;

  void reset_outputs() {
    std::fill(out.bytes.begin(), out.bytes.end(), '\xff');
    std::fill(lse.begin(), lse.end(), std::numeric_limits<float>::quiet_NaN());
  }

  std::int64_t heads() const { return call.query.heads; }
  double output(std::int64_t head, std::int64_t row, std::int64_t d) const {
    return base::load_float(out.bytes.data(), shape.dtype, head * out.head_stride + row * out.row_stride + d);
  }
};

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

// Rows are all written, the elements between them are not.
void check_guards(const Problem& p) {
  std::vector<char> covered(p.out.bytes.size(), 0);
  const auto size = static_cast<std::int64_t>(base::size_of(p.shape.dtype));
  for (std::int64_t head = 0; head < p.heads(); ++head) {
    for (std::int64_t row = 0; row < p.shape.q_len; ++row) {
      const std::int64_t begin = (head * p.out.head_stride + row * p.out.row_stride) * size;
      std::fill_n(covered.begin() + begin, p.shape.head_dim * size, 1);
      for (std::int64_t d = 0; d < p.shape.head_dim; ++d) {
        ASSERT_FALSE(std::isnan(p.output(head, row, d)))
            << "head " << head << " row " << row << " column " << d;
      }
      ASSERT_FALSE(std::isnan(p.call.lse.at(head, row))) << "lse of head " << head << " row " << row;
    }
  }
  for (std::size_t i = 0; i < covered.size(); ++i) {
    if (!covered[i]) ASSERT_EQ(p.out.bytes[i], '\xff') << "guard byte " << i << " of out";
  }
  for (std::size_t i = 1; i < p.lse.size(); i += 2)
    ASSERT_TRUE(std::isnan(p.lse[i])) << "guard " << i << " of lse";
}

std::vector<const AttentionKernel*> kernels_for(DType dtype, std::int64_t head_dim) {
  std::vector<const AttentionKernel*> kernels;
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (kernel.required <= base::choose_isa("") && kernel.supports(dtype, head_dim))
      kernels.push_back(&kernel);
  }
  return kernels;
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
  }
}

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr IndexForm kForms[] = {IndexForm::all, IndexForm::relative, IndexForm::window, IndexForm::blocks};

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

TEST(Attention, RowsWithoutKeysGiveZeroAndMinusInfinity) {
  Problem p({.form = IndexForm::relative, .q_len = 70, .kv_len = 70});
  for (sparse::HeadIndex& head : p.index.heads) {
    head.tiles.clear();
    head.columns = {5, 66};
  }
  const auto executor = base::make_thread_pool(1);
  for (const AttentionKernel* kernel : kernels_for(DType::f32, 64)) {
    SCOPED_TRACE(kernel->name);
    p.reset_outputs();
    kernel->run(p.call, *executor);
    for (std::int64_t row = 0; row < 5; ++row) {
      EXPECT_EQ(p.call.lse.at(0, row), -std::numeric_limits<float>::infinity());
      for (std::int64_t d = 0; d < 64; ++d) ASSERT_EQ(p.output(0, row, d), 0.0);
    }
    EXPECT_TRUE(std::isfinite(p.call.lse.at(0, 5)));
  }
}

// A value that is not finite reaches the rows that attend to its key, and none before the row slice of the first.
TEST(Attention, ValuesOfUnlistedKeysTouchNothing) {
  constexpr std::int64_t kInfiniteKey = 200;
  for (const DType dtype : kDTypes) {
    Problem p({.dtype = dtype, .form = IndexForm::relative, .q_len = 256, .kv_len = 256, .in_place = true});
    for (sparse::HeadIndex& head : p.index.heads) {
      head.tiles = {0};
      head.columns.resize(64);
      std::iota(head.columns.begin(), head.columns.begin() + 60, 0);
      std::iota(head.columns.begin() + 60, head.columns.end(), kInfiniteKey);
    }
    base::store_float(p.value.bytes.data(), dtype, kInfiniteKey * p.value.row_stride,
                      std::numeric_limits<float>::infinity());
    const auto executor = base::make_thread_pool(1);
    for (const AttentionKernel* kernel : kernels_for(dtype, 64)) {
      SCOPED_TRACE(kernel->name);
      p.reset_outputs();
      kernel->run(p.call, *executor);
      for (std::int64_t row = 0; row < kInfiniteKey / 64 * 64; ++row)
        for (std::int64_t d = 0; d < 64; ++d)
          ASSERT_TRUE(std::isfinite(p.output(0, row, d))) << base::name_of(dtype) << " row " << row;
      EXPECT_FALSE(std::isfinite(p.output(0, kInfiniteKey, 0)));
    }
  }
}

TEST(Attention, LseIsOptional) {
  Problem p({.dtype = DType::bf16});
  const auto executor = base::make_thread_pool(1);
  for (const AttentionKernel* kernel : kernels_for(DType::bf16, 64)) {
    kernel->run(p.call, *executor);
    const std::vector<char> with_lse = p.out.bytes;
    p.reset_outputs();
    AttentionCall call = p.call;
    call.lse = {};
    kernel->run(call, *executor);
    EXPECT_EQ(p.out.bytes, with_lse) << kernel->name;
  }
}

// Large enough for every kernel to use its workers.
TEST(Attention, SameBitsForAnyNumberOfWorkers) {
  for (const DType dtype : kDTypes) {
    for (const IndexForm form : kForms) {
      Problem p({.dtype = dtype,
                 .head_dim = 128,
                 .group = 4,
                 .form = form,
                 .q_len = 300,
                 .kv_len = 401,
                 .last_dense_rows = 30,
                 .key_scale = 10});
      for (const AttentionKernel* kernel : kernels_for(dtype, 128)) {
        std::vector<char> out;
        std::vector<float> lse;
        for (const int num_workers : {1, 2, 3}) {
          p.reset_outputs();
          kernel->run(p.call, *base::make_thread_pool(num_workers));
          if (num_workers > 1) {
            EXPECT_EQ(p.out.bytes, out) << kernel->name << ", " << num_workers << " workers";
            EXPECT_EQ(std::memcmp(p.lse.data(), lse.data(), lse.size() * sizeof(float)), 0) << kernel->name;
          }
          out = p.out.bytes;
          lse = p.lse;
        }
      }
    }
  }
}

TEST(Attention, TheTableIsBestFirstAndEndsWithTheOneThatAlwaysRuns) {
  const auto kernels = attention_kernels();
  EXPECT_STREQ(kernels.back().name, "portable");
  for (const AttentionKernel& kernel : kernels) {
    EXPECT_LE(kernel.required, kernels.front().required);
    EXPECT_GT(kernel.cost_of_column, 0);
    EXPECT_GE(kernel.cost_of_slice, 0);
  }
}

TEST(Attention, SelectionByName) {
  using base::Isa;
  for (const std::int64_t head_dim : {8, 64, 96, 256}) {
    for (const DType dtype : kDTypes) {
      EXPECT_STREQ(select_attention(Isa::portable, dtype, head_dim).name, "portable");
      EXPECT_STREQ(select_attention(Isa::avx2, dtype, head_dim).name, "avx2");
      EXPECT_STREQ(select_attention(Isa::avx512, dtype, head_dim).name, "avx512");
      const char* with_bf16 = dtype == DType::bf16 ? "avx512bf16" : "avx512";
      EXPECT_STREQ(select_attention(Isa::avx512bf16, dtype, head_dim).name, with_bf16);
    }
  }
}

}  // namespace
}  // namespace minference::kernels
