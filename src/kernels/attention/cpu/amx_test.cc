#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/isa.h"
#include "kernels/attention/cpu/amx_attention.h"
#include "kernels/attention/cpu/amx_emulation.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/reference.h"
#include "sparse/cover.h"

// The AMX kernel's dataflow, over emulated tiles: every form of index against the reference in double. On a
// machine with AMX the tiles themselves must give the same bits.
namespace minference::kernels {
namespace {

using base::bfloat16;
using sparse::HeadIndex;
using sparse::IndexForm;
// Whether a head's row at position q attends to key k.
using Attends = std::function<bool(std::int64_t head, std::int64_t row, std::int64_t k)>;

struct Shape {
  std::int64_t q_len, kv_len, query_heads, kv_heads, head_dim;
  float key_deviation = 1;
  std::int64_t row_padding = 8;
};

// Inputs with gaps between rows and heads, outputs full of NaN with guards around.
class Problem {
 public:
  explicit Problem(const Shape& shape) : shape_(shape) {
    query_ = heads(shape.query_heads, shape.q_len, 1, 1);
    key_ = heads(shape.kv_heads, shape.kv_len, shape.key_deviation, 2);
    value_ = heads(shape.kv_heads, shape.kv_len, 1, 3);
    index.q_len = shape.q_len;
    index.kv_len = shape.kv_len;
    index.heads.resize(static_cast<std::size_t>(shape.query_heads));
  }

  struct Result {
    std::vector<std::uint16_t> out;
    std::vector<float> lse;
    bool operator==(const Result&) const = default;
  };

  AttentionCall call() const {
    AttentionCall call;
    call.query = view(query_, shape_.query_heads, shape_.q_len);
    call.key = view(key_, shape_.kv_heads, shape_.kv_len);
    call.value = view(value_, shape_.kv_heads, shape_.kv_len);
    call.softmax_scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    call.index = &index;
    return call;
  }

  Result run(const amx::Stages& stages, int workers, bool with_lse = true) const {
    Result result;
    base::AlignedBuffer<std::uint16_t> out(query_.size());
    std::fill_n(out.data(), out.size(), kNan);
    result.lse.assign(static_cast<std::size_t>(shape_.query_heads * shape_.q_len), -1.0f);
    AttentionCall call = this->call();
    call.out = {out.data(),      base::DType::bf16,      shape_.query_heads,   shape_.q_len,
                shape_.head_dim, call.query.head_stride, call.query.row_stride};
    if (with_lse) call.lse = {result.lse.data(), shape_.q_len, 1};
    const auto executor = base::make_thread_pool(workers);
    amx::attention(call, *executor, stages);
    result.out.assign(out.data(), out.data() + out.size());
    return result;
  }

  // Every row against the reference; nothing but rows is written.
  void check(const Result& result, const Attends& attends) const {
    const AttentionCall call = this->call();
    double worst = 0, worst_lse = 0;
    for (std::int64_t head = 0; head < shape_.query_heads; ++head) {
      for (std::int64_t row = 0; row < shape_.q_len; ++row) {
        const ReferenceRow expected =
            reference_attention(call, head, row, [&](std::int64_t k) { return attends(head, row, k); });
        const auto start =
            static_cast<std::size_t>(head * call.query.head_stride + row * call.query.row_stride);
        double error = 0, norm = 0;
        for (std::size_t d = 0; d < static_cast<std::size_t>(shape_.head_dim); ++d) {
          const double x = base::to_float(bfloat16{result.out[start + d]});
          error += (x - expected.out[d]) * (x - expected.out[d]);
          norm += expected.out[d] * expected.out[d];
        }
        for (auto d = static_cast<std::size_t>(shape_.head_dim); d < static_cast<std::size_t>(row_stride());
             ++d) {
          ASSERT_EQ(result.out[start + d], kNan) << "head " << head << " row " << row;
        }
        const float lse = result.lse[static_cast<std::size_t>(head * shape_.q_len + row)];
        if (norm == 0) {
          ASSERT_EQ(error, 0) << "head " << head << " row " << row;
          ASSERT_EQ(lse, -std::numeric_limits<float>::infinity());
          continue;
        }
        ASSERT_TRUE(std::isfinite(error)) << "head " << head << " row " << row;
        worst = std::max(worst, std::sqrt(error / norm));
        worst_lse = std::max(worst_lse, std::fabs(lse - expected.lse));
      }
    }
    // Probabilities and outputs are rounded to bf16, half an ulp is 2^-9 to 2^-8 of them.
    EXPECT_LT(worst, 8e-3);
    EXPECT_LT(worst_lse, 1e-3);
  }

  // Makes a value of KV head 0 infinite.
  void spoil_value(std::int64_t key) {
    value_[static_cast<std::size_t>(key * row_stride())] =
        base::from_float<bfloat16>(std::numeric_limits<float>::infinity());
  }
  // Whether row `row` of head 0 is finite.
  bool is_finite(const Result& result, std::int64_t row) const {
    for (std::int64_t d = 0; d < shape_.head_dim; ++d)
      if (!std::isfinite(
              base::to_float(bfloat16{result.out[static_cast<std::size_t>(row * row_stride() + d)]})))
        return false;
    return true;
  }

  std::int64_t position(std::int64_t row) const { return shape_.kv_len - shape_.q_len + row; }

  sparse::SparseIndex index;

 private:
  static constexpr std::uint16_t kNan = 0x7fc1;
  std::int64_t row_stride() const { return shape_.head_dim + shape_.row_padding; }

  std::vector<bfloat16> heads(std::int64_t num_heads, std::int64_t rows, float deviation,
                              std::uint32_t seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<bfloat16> values(static_cast<std::size_t>(num_heads * (rows + 1) * row_stride()));
    for (bfloat16& x : values) x = base::from_float<bfloat16>(normal(random));
    return values;
  }
  base::InputHeads view(const std::vector<bfloat16>& data, std::int64_t num_heads, std::int64_t rows) const {
    return {data.data(),     base::DType::bf16,         num_heads,   rows,
            shape_.head_dim, (rows + 1) * row_stride(), row_stride()};
  }

  Shape shape_;
  std::vector<bfloat16> query_, key_, value_;
};

// Emulated tiles with one and with three workers, and the processor's own where it has them.
void check_everywhere(const Problem& problem, const Attends& attends) {
  if (base::available_isa() < base::Isa::avx512bf16) GTEST_SKIP() << "this machine has no AVX512_BF16";
  const Problem::Result result = problem.run(amx::kEmulatedStages, 1);
  problem.check(result, attends);
  EXPECT_EQ(result, problem.run(amx::kEmulatedStages, 3));
  EXPECT_EQ(result.out, problem.run(amx::kEmulatedStages, 2, false).out);
  if (base::available_isa() >= base::Isa::amx) EXPECT_EQ(result, problem.run(amx::kStages, 2));
}

TEST(AmxAttention, EveryPair) {
  for (const std::int64_t head_dim : {8, 64, 80, 128, 200, 256}) {
    SCOPED_TRACE(head_dim);
    Problem causal({101, 101, 3, 1, head_dim});
    check_everywhere(causal, [&](auto, auto row, auto k) { return k <= causal.position(row); });
  }
  for (const std::int64_t q_len : {1, 33, 64, 127}) {
    SCOPED_TRACE(q_len);
    Problem chunk({q_len, 333, 4, 2, 96});
    check_everywhere(chunk, [&](auto, auto row, auto k) { return k <= chunk.position(row); });
  }
  Problem encoder({70, 131, 2, 2, 64});
  encoder.index.causal = false;
  check_everywhere(encoder, [](auto, auto, auto) { return true; });
}

TEST(AmxAttention, MoreHeadsThanGoTogether) {
  Problem problem({40, 140, 19, 1, 64});
  for (std::size_t head = 5; head < 9; ++head) problem.index.heads[head].last_dense_rows = 7;
  check_everywhere(problem, [&](auto, auto row, auto k) { return k <= problem.position(row); });
}

// More keys than heads take in one turn, and more than a key block.
TEST(AmxAttention, ManyKeys) {
  Problem problem({66, 2600, 2, 1, 64});
  check_everywhere(problem, [&](auto, auto row, auto k) { return k <= problem.position(row); });
}

TEST(AmxAttention, VerticalSlash) {
  const std::vector<std::vector<std::int32_t>> offsets = {
      {0, 5, 131, 300}, {17, 500}, {64, 65, 128, 400}, {}};
  std::vector<std::vector<std::int32_t>> columns(4);
  for (std::int32_t k = 0; k < 600; k += 7) columns[0].push_back(k);
  for (std::int32_t k = 0; k < 40; ++k) columns[1].push_back(k);
  columns[2] = {0};
  for (std::int32_t k = 256; k < 600; ++k) columns[3].push_back(k);
  for (const bool causal : {true, false}) {
    SCOPED_TRACE(causal);
    Problem problem({200, 603, 4, 2, 128});
    problem.index.causal = causal;
    for (std::size_t head = 0; head < 4; ++head) {
      HeadIndex& index = problem.index.heads[head];
      index.form = IndexForm::relative;
      index.tiles = sparse::cover_offsets(offsets[head]);
      index.columns = columns[head];
      index.last_dense_rows = head == 1 ? 40 : 0;
    }
    check_everywhere(problem, [&](std::int64_t head, std::int64_t row, std::int64_t k) {
      const HeadIndex& index = problem.index.heads[static_cast<std::size_t>(head)];
      if (causal && k > problem.position(row)) return false;
      if (row >= 200 - index.last_dense_rows) return true;
      const std::int64_t origin = problem.position(row / 64 * 64);
      for (const std::int64_t start : index.tiles) {
        if (k >= origin + start && k < origin + start + 64) return true;
      }
      return std::count(index.columns.begin(), index.columns.end(), k) > 0;
    });
  }
}

// Columns 32..59 and 200..203 share a packed unit.
TEST(AmxAttention, ValuesOfLaterColumnsTouchNothing) {
  if (base::available_isa() < base::Isa::avx512bf16) GTEST_SKIP() << "this machine has no AVX512_BF16";
  Problem problem({256, 256, 1, 1, 64});
  HeadIndex& index = problem.index.heads[0];
  index.form = IndexForm::relative;
  index.tiles = {0};
  for (std::int32_t k = 0; k < 60; ++k) index.columns.push_back(k);
  for (std::int32_t k = 200; k < 204; ++k) index.columns.push_back(k);
  problem.spoil_value(200);
  const Problem::Result result = problem.run(amx::kEmulatedStages, 2);
  for (std::int64_t row = 0; row < 192; ++row) ASSERT_TRUE(problem.is_finite(result, row)) << "row " << row;
  EXPECT_FALSE(problem.is_finite(result, 200));
}

// Row slices end inside blocks of 32 keys; the spoiled key is the first one after a slice.
TEST(AmxAttention, ValuesOfLaterKeysTouchNothing) {
  if (base::available_isa() < base::Isa::avx512bf16) GTEST_SKIP() << "this machine has no AVX512_BF16";
  for (const IndexForm form : {IndexForm::all, IndexForm::relative, IndexForm::window}) {
    SCOPED_TRACE(static_cast<int>(form));
    Problem problem({128, 205, 1, 1, 64});
    HeadIndex& index = problem.index.heads[0];
    index.form = form;
    index.tiles = {0, -70};
    index.local = 40;
    index.sink = 3;
    problem.spoil_value(problem.position(64));
    const Problem::Result result = problem.run(amx::kEmulatedStages, 1);
    for (std::int64_t row = 0; row < 64; ++row) ASSERT_TRUE(problem.is_finite(result, row)) << "row " << row;
    EXPECT_FALSE(problem.is_finite(result, 64));
  }
}

// Tiles that meet in blocks of 32 keys, or leave gaps in them.
TEST(AmxAttention, TilesAtAnyKey) {
  for (const std::int64_t kv_len : {331, 352}) {
    Problem problem({160, kv_len, 2, 1, 64});
    problem.index.heads[0].tiles = {0, -64, -128, -200};
    problem.index.heads[1].tiles = {-5, -69, -140, -205, -300};
    for (HeadIndex& index : problem.index.heads) index.form = IndexForm::relative;
    check_everywhere(problem, [&](std::int64_t head, std::int64_t row, std::int64_t k) {
      const std::int64_t origin = problem.position(row / 64 * 64);
      const auto& tiles = problem.index.heads[static_cast<std::size_t>(head)].tiles;
      return k <= problem.position(row) && std::any_of(tiles.begin(), tiles.end(), [&](std::int64_t start) {
               return k >= origin + start && k < origin + start + 64;
             });
    });
  }
}

TEST(AmxAttention, Window) {
  const std::int64_t local[] = {1, 50, 0, 200}, sink[] = {4, 0, 70, 128};
  for (const bool causal : {true, false}) {
    SCOPED_TRACE(causal);
    Problem problem({150, 340, 4, 4, 72});
    problem.index.causal = causal;
    for (std::size_t head = 0; head < 4; ++head) {
      problem.index.heads[head].form = IndexForm::window;
      problem.index.heads[head].local = local[head];
      problem.index.heads[head].sink = sink[head];
    }
    check_everywhere(problem, [&](std::int64_t head, std::int64_t row, std::int64_t k) {
      const std::int64_t distance = problem.position(row) - k;
      return !(causal && distance < 0) && (std::abs(distance) < local[head] || k < sink[head]);
    });
  }
}

// Output rows that are whole cache lines are written past the caches.
TEST(AmxAttention, WholeCacheLines) {
  Problem problem({70, 131, 2, 1, 64, 1, 32});
  check_everywhere(problem, [&](auto, auto row, auto k) { return k <= problem.position(row); });
}

// Row block 1 of head 1 lists nothing at all.
TEST(AmxAttention, Blocks) {
  Problem problem({190, 450, 2, 1, 64});
  const std::vector<std::vector<std::int32_t>> lists[] = {{{0, 4}, {2, 3, 5}, {0, 1, 2, 3, 4, 5, 6, 7}},
                                                          {{5}, {}, {7}}};
  for (std::size_t head = 0; head < 2; ++head) {
    HeadIndex& index = problem.index.heads[head];
    index.form = IndexForm::blocks;
    index.row_offsets = {0};
    for (const auto& list : lists[head]) {
      index.key_blocks.insert(index.key_blocks.end(), list.begin(), list.end());
      index.row_offsets.push_back(static_cast<std::int64_t>(index.key_blocks.size()));
    }
  }
  check_everywhere(problem, [&](std::int64_t head, std::int64_t row, std::int64_t k) {
    const auto& list = lists[head][static_cast<std::size_t>(row / 64)];
    return k <= problem.position(row) && std::count(list.begin(), list.end(), k / 64) > 0;
  });
}

// Scores so far apart that rows leave the range of their first unit's reference.
TEST(AmxAttention, LargeScores) {
  Problem problem({130, 517, 4, 2, 128, 40});
  problem.index.heads[1].form = IndexForm::window;
  problem.index.heads[1].local = 33;
  check_everywhere(problem, [&](std::int64_t head, std::int64_t row, std::int64_t k) {
    return k <= problem.position(row) && (head != 1 || problem.position(row) - k < 33);
  });
}

}  // namespace
}  // namespace minference::kernels
