#include "kernels/attention/cuda/clear_rows.h"

#include "base/arithmetic.h"
#include "cuda/error.h"

namespace minference::kernels::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void clear_kernel(base::OutputHeads out, base::RowsView lse) {
  const std::int64_t h = blockIdx.y;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = at / out.dim, d = at % out.dim;
  if (row >= out.rows) return;
  static_cast<std::uint16_t*>(out.data)[h * out.head_stride + row * out.row_stride + d] = 0;
  if (d == 0 && lse.data != nullptr) lse.data[h * lse.head_stride + row * lse.row_stride] = -INFINITY;
}

}  // namespace

void clear_rows(const base::OutputHeads& out, const base::RowsView& lse, minference::cuda::Stream stream) {
  const std::int64_t blocks = base::divide_up<std::int64_t>(out.rows * out.dim, kThreads);
  if (blocks == 0) return;
  clear_kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(out.heads)), kThreads, 0,
                 stream>>>(out, lse);
  minference::cuda::check(cudaGetLastError(), "launching the clearing of rows");
}

}  // namespace minference::kernels::cuda
