#include "kernels/attention/cuda/alignment.h"

#include <gtest/gtest.h>

#include <limits>

namespace minference::kernels::cuda {
namespace {

constexpr auto kHuge = std::numeric_limits<std::int64_t>::max();

struct Case {
  std::int64_t heads, rows, head_stride, row_stride;
  bool aligned, suits_copy_engine;
};

TEST(Alignment, OfEveryKindOfStride) {
  constexpr Case kCases[] = {
      {2, 3, 192, 64, true, true},      {2, 3, 195, 64, false, false}, {2, 3, 192, 65, false, false},
      {2, 3, 0, 64, true, false},       {2, 3, 192, 0, true, false},   {2, 3, -192, 64, true, false},
      {2, 3, 192, -64, true, false},    {1, 3, 65, 64, true, true},    {2, 1, 64, 65, true, true},
      {1, 3, 0, 64, true, true},        {2, 1, 64, 0, true, true},     {1, 3, -1, 65, false, false},
      {1, 1, kHuge, kHuge, true, true}, {2, 1, 65, 64, false, false},  {1, 3, kHuge, 0, true, false},
  };
  alignas(16) const char data[32] = {};
  for (const Case& c : kCases) {
    for (const int offset : {0, 2, 8, 16}) {
      const base::InputHeads view{data + offset, base::DType::bf16, c.heads, c.rows, 64,
                                  c.head_stride, c.row_stride};
      EXPECT_EQ(has_aligned_rows(view), c.aligned && offset % 16 == 0) << &c - kCases << " " << offset;
      EXPECT_EQ(suits_copy_engine(view), c.suits_copy_engine && offset % 16 == 0)
          << &c - kCases << " " << offset;
    }
  }
}

}  // namespace
}  // namespace minference::kernels::cuda
