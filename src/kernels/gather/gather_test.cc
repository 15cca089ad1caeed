#include "kernels/gather/gather.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace minference {
namespace {

struct Packing {
  std::string name;
  // Where a page of `size` tokens of `dim` numbers holds one of them: the sum of both.
  std::function<int(int token, int size, int dim)> token;
  std::function<int(int d, int size, int dim)> dim;
};

const Packing kPackings[] = {
    {"Rows", [](int t, int, int dim) { return t * dim; }, [](int d, int, int) { return d; }},
    {"Columns", [](int t, int, int) { return t; }, [](int d, int size, int) { return d * size; }},
    {"PairsOfDims", [](int t, int, int dim) { return t / 16 * 16 * dim + t % 16 * 2; },
     [](int d, int, int) { return d / 2 * 32 + d % 2; }},
    {"PairsOfTokens", [](int t, int, int) { return t / 2 * 32 + t % 2; },
     [](int d, int size, int) { return d / 16 * 16 * size + d % 16 * 2; }},
    {"UnequalRuns", [](int t, int, int dim) { return t * 2 * dim; },
     [](int d, int, int) { return d + d / 3; }},
};

class Gather : public testing::TestWithParam<std::tuple<Packing, base::DType>> {};

TEST_P(Gather, PutsEveryElementInItsPlace) {
  const auto& [packing, dtype] = GetParam();
  constexpr int kSize = 32, kDim = 48, kHeads = 3, kPages = 6, kHeadStride = 2 * kSize * kDim + 8;
  constexpr int kPageStride = kHeads * kHeadStride + 24;
  const std::size_t bytes = base::size_of(dtype);
  std::vector<std::int32_t> token_offsets(kSize), dim_offsets(kDim);
  for (int t = 0; t < kSize; ++t) token_offsets[t] = packing.token(t, kSize, kDim);
  for (int d = 0; d < kDim; ++d) dim_offsets[d] = packing.dim(d, kSize, kDim);
  // Elements that say where they lie.
  std::vector<std::uint32_t> wide(kPages * kPageStride);
  std::vector<std::uint16_t> narrow(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i)
    wide[i] = static_cast<std::uint32_t>(i) * 2654435761u, narrow[i] = static_cast<std::uint16_t>(i * 40503u);
  const auto* pool =
      bytes == 4 ? reinterpret_cast<const char*>(wide.data()) : reinterpret_cast<const char*>(narrow.data());
  const std::vector<std::int32_t> table = {4, 0, 5};
  for (const int rows : {1, 31, 32, 33, 96}) {
    const int row_stride = kDim + 5, head_stride = rows * row_stride + 3;
    std::vector<char> out((kHeads * head_stride + 1) * bytes, '\x5a');
    kernels::gather_pages({pool, kPageStride, kHeadStride, token_offsets, dim_offsets, table.data()},
                          {out.data(), dtype, kHeads, rows, kDim, head_stride, row_stride},
                          *base::make_thread_pool(2));
    std::vector<char> expected(out.size(), '\x5a');
    for (int h = 0; h < kHeads; ++h)
      for (int r = 0; r < rows; ++r)
        for (int d = 0; d < kDim; ++d) {
          const int from =
              table[r / kSize] * kPageStride + h * kHeadStride + token_offsets[r % kSize] + dim_offsets[d];
          std::memcpy(expected.data() + (h * head_stride + r * row_stride + d) * bytes, pool + from * bytes,
                      bytes);
        }
    EXPECT_EQ(out, expected) << rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(, Gather,
                         testing::Combine(testing::ValuesIn(kPackings),
                                          testing::Values(base::DType::f32, base::DType::bf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + base::name_of(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace minference
