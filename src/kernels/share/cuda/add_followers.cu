#include "base/arithmetic.h"
#include "base/error.h"
#include "cuda/error.h"
#include "kernels/share/cuda/add_followers.h"

namespace minference::kernels::cuda {

namespace {

constexpr int kThreads = 256;

// Passed by value, so that a captured graph keeps it.
struct Sharing {
  std::int16_t leaders[kMaxSharingHeads];
  std::int16_t next[kMaxSharingHeads];
};

__global__ void __launch_bounds__(kThreads)
    add_kernel(float* rows, std::int64_t stride, std::int64_t size, const __grid_constant__ Sharing sharing) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  const int leader = sharing.leaders[blockIdx.y];
  float sum = rows[leader * stride + i];
  for (int h = sharing.next[leader]; h >= 0; h = sharing.next[h]) sum += rows[h * stride + i];
  rows[leader * stride + i] = sum;
}

}  // namespace

void add_followers(const DeviceSharedRows& call, minference::cuda::Stream stream) {
  base::require(std::ssize(call.next) <= kMaxSharingHeads, "heads", "must be at most 128", call.next.size(),
                base::ErrorCode::unsupported);
  if (call.leaders.empty() || call.size == 0) return;
  Sharing sharing = {};
  for (std::size_t i = 0; i < call.leaders.size(); ++i)
    sharing.leaders[i] = static_cast<std::int16_t>(call.leaders[i]);
  for (std::size_t h = 0; h < call.next.size(); ++h)
    sharing.next[h] = static_cast<std::int16_t>(call.next[h]);
  const dim3 grid(static_cast<unsigned>(base::divide_up<std::int64_t>(call.size, kThreads)),
                  static_cast<unsigned>(call.leaders.size()));
  add_kernel<<<grid, kThreads, 0, stream>>>(call.rows, call.stride, call.size, sharing);
  minference::cuda::check(cudaGetLastError(), "launching the sums of heads that share an index");
}

}  // namespace minference::kernels::cuda
