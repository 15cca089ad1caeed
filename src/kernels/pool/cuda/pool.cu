#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/arithmetic.h"
#include "cuda/error.h"
#include "kernels/pool/cuda/pool_cuda.h"
#include "sparse/rules.h"

namespace minference::kernels::cuda {

namespace {

__device__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ float to_float(__half x) {
  return __half2float(x);
}

// One CTA a block of rows, one thread an element of head_dim.
template <class T>
__global__ void pool_kernel(const base::InputHeads x, float* out) {
  const std::int64_t block = blockIdx.x, head = blockIdx.y, d = threadIdx.x;
  if (d >= x.dim) return;
  const std::int64_t begin = block * sparse::kRowBlock, end = base::min(begin + sparse::kRowBlock, x.rows);
  float sum = 0;
  for (std::int64_t r = begin; r < end; ++r) sum += to_float(x.row<const T>(head, r)[d]);
  out[(head * gridDim.x + block) * x.dim + d] = sum / static_cast<float>(end - begin);
}

}  // namespace

void pool_blocks(const base::InputHeads& x, float* out, minference::cuda::Stream stream) {
  const dim3 grid(static_cast<unsigned>(base::divide_up(x.rows, sparse::kRowBlock)),
                  static_cast<unsigned>(x.heads));
  const auto threads = static_cast<unsigned>(base::round_up<std::int64_t>(x.dim, 32));
  if (x.dtype == base::DType::bf16) {
    pool_kernel<__nv_bfloat16><<<grid, threads, 0, stream>>>(x, out);
  } else {
    pool_kernel<__half><<<grid, threads, 0, stream>>>(x, out);
  }
  minference::cuda::check(cudaGetLastError(), "launching the pooling of blocks");
}

}  // namespace minference::kernels::cuda
