#include "kernels/estimate/estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <string>

#include "kernels/estimate/cpu/amx_emulation.h"
#include "kernels/estimate/cpu/drive.h"
#include "kernels/estimate/reference.h"

namespace minference::kernels {
namespace {

using base::DType;

struct Shape {
  std::int64_t num_query_heads, num_kv_heads, q_len, kv_len, head_dim;
};

std::string describe(const Shape& s, DType dtype) {
  return std::to_string(s.num_query_heads) + "/" + std::to_string(s.num_kv_heads) + " heads, " +
         std::to_string(s.q_len) + " x " + std::to_string(s.kv_len) + " x " + std::to_string(s.head_dim) +
         " " + base::name_of(dtype);
}

// Random heads in strided storage of bytes, at an odd start and with odd gaps filled with NaN, and outputs
// full of NaN.
class Problem {
 public:
  Problem(const Shape& shape, DType dtype, std::uint64_t seed, float spread = 1.0f)
      : query_(storage(shape.num_query_heads, shape.q_len, shape.head_dim, dtype)),
        key_(storage(shape.num_kv_heads, shape.kv_len, shape.head_dim, dtype)),
        column_(shape.num_query_heads * (shape.kv_len + 3), std::numeric_limits<float>::quiet_NaN()),
        diagonal_(column_) {
    call.query = view(query_, shape.num_query_heads, shape.q_len, shape.head_dim, dtype);
    call.key = view(key_, shape.num_kv_heads, shape.kv_len, shape.head_dim, dtype);
    call.softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    call.column_sums = column_.data();
    call.diagonal_sums = diagonal_.data();
    call.head_stride = shape.kv_len + 3;
    fill(query_, call.query, seed, 2.0f);
    fill(key_, call.key, seed + 1, 2.0f * spread);
  }

  void run(const EstimateKernel& kernel, int num_workers) {
    const auto executor = base::make_thread_pool(num_workers);
    kernel.run(call, *executor);
  }

  const float* column(std::int64_t head) const { return column_.data() + head * call.head_stride; }
  const float* diagonal(std::int64_t head) const { return diagonal_.data() + head * call.head_stride; }
  const std::vector<float>& all_columns() const { return column_; }
  const std::vector<float>& all_diagonals() const { return diagonal_; }

  EstimateCall call;

 private:
  static constexpr std::int64_t kGap = 5;
  using Storage = std::vector<std::byte>;

  static Storage storage(std::int64_t heads, std::int64_t rows, std::int64_t dim, DType dtype) {
    return Storage((heads * (rows * (dim + kGap) + 7) + 1) * base::size_of(dtype),
                   std::byte{0xff});  // all NaN
  }

  static base::InputHeads view(const Storage& storage, std::int64_t heads, std::int64_t rows,
                               std::int64_t dim, DType dtype) {
    return {
        storage.data() + base::size_of(dtype), dtype, heads, rows, dim, rows * (dim + kGap) + 7, dim + kGap};
  }

  static void fill(Storage& storage, const base::InputHeads& heads, std::uint64_t seed, float deviation) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0.0f, deviation);
    void* data = storage.data() + base::size_of(heads.dtype);
    for (std::int64_t h = 0; h < heads.heads; ++h)
      for (std::int64_t r = 0; r < heads.rows; ++r)
        for (std::int64_t d = 0; d < heads.dim; ++d)
          base::store_float(data, heads.dtype, h * heads.head_stride + r * heads.row_stride + d,
                            normal(random));
  }

  Storage query_, key_;
  std::vector<float> column_, diagonal_;
};

// `relative`: f32 scores s carry an error of about 2^-24 |s|, which the softmax turns into a relative one.
void expect_reference(const Problem& problem, const std::string& what, double relative = 1e-4) {
  for (std::int64_t head = 0; head < problem.call.query.heads; ++head) {
    const ReferenceSums expected = estimate_reference(problem.call, head);
    for (std::int64_t i = 0; i < problem.call.key.rows; ++i) {
      const double column_tolerance = 1e-6 + relative * expected.column[i];
      const double diagonal_tolerance = 1e-6 + relative * expected.diagonal[i];
      ASSERT_NEAR(problem.column(head)[i], expected.column[i], column_tolerance) << what << ", key " << i;
      ASSERT_NEAR(problem.diagonal(head)[i], expected.diagonal[i], diagonal_tolerance)
          << what << ", offset " << i;
    }
  }
}

// The AMX kernel over tiles in plain C++.
EstimateKernel emulated_amx() {
  EstimateKernel kernel = estimate_kernels().front();
  kernel.name = "amx, emulated";
  kernel.run = [](const EstimateCall& call, base::Executor& executor) {
    estimate::drive(estimate::emulated_amx_steps(), call, executor);
  };
  return kernel;
}

// The kernels that dispatch picks for the instruction set under test, and where it lacks only tiles, those
// emulated.
std::vector<EstimateKernel> kernels_here() {
  std::vector<EstimateKernel> kernels;
  const base::Isa isa = base::choose_isa("");
  for (const EstimateKernel& kernel : estimate_kernels())
    if (&kernel == &select_estimate(isa, DType::f32, 128) ||
        &kernel == &select_estimate(isa, DType::bf16, 128))
      kernels.push_back(kernel);
  if (isa == base::Isa::avx512bf16) kernels.push_back(emulated_amx());
  return kernels;
}

TEST(Estimate, MatchesDoublePrecision) {
  const Shape shapes[] = {
      {1, 1, 1, 1, 64},      {1, 1, 3, 3, 64},      {4, 1, 1, 70, 80},     {8, 2, 63, 63, 96},
      {7, 1, 64, 64, 128},   {8, 1, 65, 65, 128},   {4, 4, 64, 1023, 128}, {4, 1, 64, 1033, 64},
      {2, 1, 200, 1110, 72}, {4, 2, 17, 2100, 192}, {8, 2, 64, 300, 256},  {1, 1, 90, 90, 8},
      {2, 2, 10, 1040, 128},
  };
  for (const EstimateKernel& kernel : kernels_here())
    for (const Shape& shape : shapes)
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        if (!kernel.supports(dtype, shape.head_dim)) continue;
        Problem problem(shape, dtype, 7 + shape.kv_len);
        problem.run(kernel, 2);
        expect_reference(problem, std::string(kernel.name) + ": " + describe(shape, dtype));
      }
}

// Scores of standard deviation about 80: the softmax is nearly one-hot, which a rounded scale or query would
// not survive.
TEST(Estimate, LargeScores) {
  for (const EstimateKernel& kernel : kernels_here())
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      if (!kernel.supports(dtype, 128)) continue;
      Problem problem({4, 2, 70, 530, 128}, dtype, 3, 20.0f);
      problem.run(kernel, 1);
      expect_reference(problem, std::string(kernel.name) + " large " + base::name_of(dtype), 1e-3);
    }
}

// A scale that threads which take subnormal numbers for zero would lose, and with it what is masked.
TEST(Estimate, SubnormalScale) {
  for (const EstimateKernel& kernel : kernels_here())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (!kernel.supports(dtype, 64)) continue;
      for (const float scale : {1e-39f, -1e-39f}) {
        Problem problem({2, 1, 100, 100, 64}, dtype, 17);
        problem.call.softmax_scale = scale;
        problem.run(kernel, 1);
        expect_reference(problem, std::string(kernel.name) + " " + std::string(base::name_of(dtype)));
      }
    }
}

TEST(Estimate, SameBitsForAnyNumberOfWorkers) {
  for (const EstimateKernel& kernel : kernels_here()) {
    Problem one({8, 2, 100, 5000, 64}, DType::bf16, 11);
    one.run(kernel, 1);
    for (const int num_workers : {2, 3, 7}) {
      Problem many({8, 2, 100, 5000, 64}, DType::bf16, 11);
      many.run(kernel, num_workers);
      const std::size_t bytes = one.all_columns().size() * sizeof(float);
      EXPECT_EQ(std::memcmp(one.all_columns().data(), many.all_columns().data(), bytes), 0) << kernel.name;
      EXPECT_EQ(std::memcmp(one.all_diagonals().data(), many.all_diagonals().data(), bytes), 0)
          << kernel.name;
    }
  }
}

TEST(Estimate, EmulatedTilesGiveTheSameBits) {
  if (base::choose_isa("") < base::Isa::amx) return;
  Problem tiles({8, 2, 100, 1033, 96}, DType::bf16, 11), emulated({8, 2, 100, 1033, 96}, DType::bf16, 11);
  tiles.run(estimate_kernels().front(), 1);
  emulated.run(emulated_amx(), 1);
  for (std::int64_t head = 0; head < 8; ++head)
    for (std::int64_t i = 0; i < 1033; ++i) {
      ASSERT_EQ(tiles.column(head)[i], emulated.column(head)[i]) << head << ", key " << i;
      ASSERT_EQ(tiles.diagonal(head)[i], emulated.diagonal(head)[i]) << head << ", offset " << i;
    }
}

// f16 has 3 bits more than bf16: values that differ only there must be told apart.
TEST(Estimate, HalfPrecisionIsNotRoundedToBfloat16) {
  for (const EstimateKernel& kernel : kernels_here()) {
    if (!kernel.supports(DType::f16, 64)) continue;
    std::vector<base::float16> query(64, base::from_float<base::float16>(0));
    std::vector<base::float16> key(2 * 64, base::from_float<base::float16>(0));
    query[0] = base::from_float<base::float16>(1.0f);
    key[0] = base::from_float<base::float16>(1024.0f);
    key[64] = base::from_float<base::float16>(1025.0f);
    float column[2], diagonal[2];
    const EstimateCall call{{query.data(), DType::f16, 1, 1, 64, 64, 64},
                            {key.data(), DType::f16, 1, 2, 64, 128, 64},
                            1.0f,
                            column,
                            diagonal,
                            2};
    kernel.run(call, *base::make_thread_pool(1));
    EXPECT_NEAR(column[1], std::numbers::e / (1 + std::numbers::e), 1e-3) << kernel.name;
    EXPECT_NEAR(diagonal[0], column[1], 1e-6) << kernel.name;
  }
}

TEST(Estimate, NoRowsGiveZeros) {
  for (const EstimateKernel& kernel : kernels_here()) {
    Problem problem({2, 1, 0, 9, 64}, DType::f32, 1);
    problem.run(kernel, 1);
    for (std::int64_t head = 0; head < 2; ++head)
      for (std::int64_t i = 0; i < 9; ++i)
        EXPECT_EQ(problem.column(head)[i] + problem.diagonal(head)[i], 0.0f);
  }
}

TEST(Estimate, TableEndsWithAKernelForEverything) {
  const EstimateKernel& last = estimate_kernels().back();
  EXPECT_EQ(last.required, base::Isa::portable);
  EXPECT_TRUE(last.supports(DType::f16, 40));
  EXPECT_STREQ(select_estimate(base::Isa::portable, DType::f32, 128).name, "portable");
}

}  // namespace
}  // namespace minference::kernels
