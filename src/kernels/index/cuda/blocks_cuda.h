#pragma once

#include <cstdint>
#include <span>

#include "cuda/stream.h"
#include "kernels/index/cuda/index_cuda.h"

namespace minference::kernels::cuda {

// Most keys of a call with block-sparse heads: the scores of a row block's key blocks stay in shared memory, of
// which compute capability 8.6, 8.9 and 12.0 give a CTA 99 KB.
inline constexpr std::int64_t kMaxBlockSparseKeys = 24000 * std::int64_t{64};

// kernels/index/index.h's index_block_sparse, causal, for some heads of one sequence in device memory, with the
// CPU's lists for the same means: of a leader's, which are the sums of all heads' that share its index. Rows of other
// heads stay as they are.
struct DeviceBlocksCall {
  std::int64_t q_len = 0, kv_len = 0;  // 0 < q_len <= kv_len <= kMaxBlockSparseKeys
  std::int64_t num_heads = 0, num_kv_heads = 0;
  std::int64_t dim = 0;                 // a multiple of 8 up to 256
  std::span<const IndexPlan> heads;     // host memory, [num_heads]; those of form `blocks` are computed
  const float* pooled_query = nullptr;  // [num_heads, ceil(q_len / 64), dim]
  const float* pooled_key = nullptr;    // [num_kv_heads, ceil(kv_len / 64), dim]
  std::int32_t* row_offsets = nullptr;  // [num_heads, ceil(q_len / 64) + 1]
  std::int32_t* key_blocks = nullptr;   // [num_heads, block_capacity]
  std::int32_t block_capacity = 0;      // at least the last row offset of every head
};

// Asynchronous on `stream`, without host synchronisation; needs no workspace.
void index_blocks(const DeviceBlocksCall& call, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
