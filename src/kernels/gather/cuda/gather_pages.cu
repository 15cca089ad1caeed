#include "kernels/gather/cuda/gather_pages.h"

#include "base/arithmetic.h"
#include "cuda/error.h"

namespace minference::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kVectorElements = 8;  // of 16 bits in 16 bytes

__global__ void gather_kernel(Pages pages, base::OutputHeads out) {
  const std::int64_t row_vectors = out.dim / kVectorElements;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = at / row_vectors, d = at % row_vectors * kVectorElements, head = blockIdx.y;
  if (row >= out.rows) return;
  const std::int64_t page = pages.table[row / pages.first.rows];
  const auto* from = static_cast<const std::uint16_t*>(pages.first.data) + page * pages.page_stride +
                     head * pages.first.head_stride + row % pages.first.rows * pages.first.row_stride + d;
  auto* to = static_cast<std::uint16_t*>(out.data) + head * out.head_stride + row * out.row_stride + d;
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

}  // namespace

void gather_pages(const Pages& pages, const base::OutputHeads& out, minference::cuda::Stream stream) {
  const std::int64_t blocks = base::divide_up<std::int64_t>(out.rows * (out.dim / kVectorElements), kThreads);
  if (blocks == 0) return;
  gather_kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(out.heads)), kThreads, 0,
                  stream>>>(pages, out);
  minference::cuda::check(cudaGetLastError(), "launching the gathering of pages");
}

}  // namespace minference::kernels::cuda
