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
  return {.num_kv_heads = static_cast<std::int32_t>(call.key.heads),
          .group = static_cast<std::int32_t>(call.query.heads / call.key.heads),
          .items_per_head = items_per_head,
          .by_head = (call.index.row_offsets == nullptr || call.index.tile_capacity > 0) &&
                     call.key.rows * call.key.dim * kBytesOfKeyAndValue > l2_bytes,
          .concurrent = multiprocessors};
}

}  // namespace minference::kernels::cuda
