#include "kernels/attention/cuda/schedule.h"

#include "cuda/error.h"
#include "kernels/attention/cuda/attention_cuda.h"

namespace minference::kernels::cuda {

Schedule Schedule::of(const DeviceAttentionCall& call, std::int32_t items_per_head) {
  using minference::cuda::check;
  int device = 0, l2_bytes = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device), "asking for its cache");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "asking for its size");
  constexpr std::int64_t kBytesOfKeyAndValue = 2 * 2;
  const std::int64_t kv_head_bytes = call.key.rows * call.key.dim * kBytesOfKeyAndValue;
  const bool walk_apart = call.index.row_offsets != nullptr && call.index.tile_capacity == 0;
  const std::int64_t group = call.query.heads / call.key.heads;
  std::int64_t turns = group;
  // Half of it, since each half of the multiprocessors has a copy of what it reads.
  if (call.key.heads * kv_head_bytes <= l2_bytes / 2) {
    turns = call.query.heads;
  } else if (kv_head_bytes > l2_bytes && !walk_apart) {
    turns = 1;
  }
  return {.num_kv_heads = static_cast<std::int32_t>(call.key.heads),
          .group = static_cast<std::int32_t>(group),
          .items_per_head = items_per_head,
          .turns = static_cast<std::int32_t>(turns),
          .concurrent = multiprocessors};
}

}  // namespace minference::kernels::cuda
