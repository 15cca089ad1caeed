#include "kernels/pool/pool.h"

#include <algorithm>

#include "sparse/rules.h"

namespace minference::kernels {
namespace {

template <class T>
void pool_block(const base::InputHeads& x, std::int64_t head, std::int64_t begin, std::int64_t end,
                float* out) {
  std::fill_n(out, x.dim, 0.0f);
  for (std::int64_t r = begin; r < end; ++r) {
    const T* row = x.row<const T>(head, r);
    for (std::int64_t d = 0; d < x.dim; ++d) out[d] += base::to_float(row[d]);
  }
  const float count = static_cast<float>(end - begin);
  for (std::int64_t d = 0; d < x.dim; ++d) out[d] /= count;
}

}  // namespace

void pool_blocks(const base::InputHeads& x, float* out, base::Executor& executor) {
  const auto pool = x.dtype == base::DType::f32   ? pool_block<float>
                    : x.dtype == base::DType::f16 ? pool_block<base::float16>
                                                  : pool_block<base::bfloat16>;
  const std::int64_t blocks = (x.rows + sparse::kRowBlock - 1) / sparse::kRowBlock;
  executor.parallel_for(x.heads * blocks, [&](std::int64_t i, int) {
    const std::int64_t begin = i % blocks * sparse::kRowBlock;
    pool(x, i / blocks, begin, std::min(begin + sparse::kRowBlock, x.rows), out + i * x.dim);
  });
}

}  // namespace minference::kernels
