#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/stream.h"
#include "sparse/head_pattern.h"

namespace minference::kernels::cuda {

inline constexpr std::int64_t kMaxSelectedHeads = 128;  // what a launch takes as arguments

// kernels/select/select.h for the heads of one sequence, in device memory. Columns and offsets come out as
// bitmaps: bit i % 32 of word i / 32 of a head's row says whether i is a member. Rows of heads that are
// neither vertical-slash nor adaptive stay as they are; bits of others at or after kv_len are 0.
struct DeviceSelectCall {
  const float* column_sums = nullptr;    // [num_query_heads, kv_len]
  const float* diagonal_sums = nullptr;  // [num_query_heads, kv_len]
  std::int64_t head_stride = 0;          // elements between heads of both, >= kv_len
  std::int64_t kv_len = 0;
  std::span<const sparse::HeadPattern> heads;  // host memory, [num_query_heads]
  double column_cost = 1.0 / 64;               // adaptive: of one column of a row block, in tiles
  std::uint32_t* columns = nullptr;            // [num_query_heads, sparse::member_words(kv_len)]
  std::uint32_t* offsets = nullptr;            // the same
};

// Bytes of device memory that select() needs; a function of kv_len and of how many heads are adaptive.
std::size_t select_workspace_bytes(const DeviceSelectCall& call);

// Asynchronous on `stream`, without host synchronisation. `workspace` is aligned to 256 bytes. The published
// selection is the CPU's to the last member for the same sums; the adaptive one rounds its masses to 2^-34 of a
// row's, so that where the mass kept is the share but for that, the threshold may be the next one, 1 % off.
void select(const DeviceSelectCall& call, void* workspace, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
