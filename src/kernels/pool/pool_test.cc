#include "kernels/pool/pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace minference {
namespace {

class Pool : public testing::TestWithParam<base::DType> {};

TEST_P(Pool, MeansOfBlocksAgreeWithDoublePrecision) {
  const base::DType dtype = GetParam();
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.5f, 2.0f);
  for (const std::int64_t rows : {1, 63, 64, 65, 300}) {
    const std::int64_t heads = 3, dim = 1 + random() % 150;
    const std::int64_t row_stride = dim + 7, head_stride = rows * row_stride + 5, blocks = (rows + 63) / 64;
    std::vector<float> storage(heads * head_stride);  // holds elements of 2 or 4 bytes
    for (std::int64_t i = 0; i < heads * head_stride; ++i)
      base::store_float(storage.data(), dtype, i, normal(random));
    const base::InputHeads x{storage.data(), dtype, heads, rows, dim, head_stride, row_stride};
    std::vector<float> out(heads * blocks * dim + 1, std::numeric_limits<float>::quiet_NaN());
    kernels::pool_blocks(x, out.data(), *base::make_thread_pool(2));
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        for (std::int64_t d = 0; d < dim; ++d) {
          double sum = 0, magnitude = 0;
          const std::int64_t end = std::min(64 * b + 64, rows);
          for (std::int64_t r = 64 * b; r < end; ++r) {
            const double value = base::load_float(x.data, dtype, h * head_stride + r * row_stride + d);
            sum += value;
            magnitude += std::abs(value);
          }
          const auto count = static_cast<double>(end - 64 * b);
          ASSERT_NEAR(out[(h * blocks + b) * dim + d], sum / count, 4e-6 * magnitude / count);
        }
      }
    }
    EXPECT_TRUE(std::isnan(out.back())) << "nothing is written past the end";
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, Pool, testing::Values(base::DType::f32, base::DType::f16, base::DType::bf16),
                         [](const auto& info) { return base::name_of(info.param); });

}  // namespace
}  // namespace minference
