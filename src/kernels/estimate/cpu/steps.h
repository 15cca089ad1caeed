#pragma once

#include <cstdint>

#include "kernels/estimate/estimate.h"

namespace minference::kernels::estimate {

// A row's largest score before it has one. Finite, so that differences of two never become NaN; 2 to its power
// is 0.
inline constexpr float kMasked = -1e30f;

// One chunk of keys of one kv head, and the query heads that read it. Lane i of every [64] array is query row
// q_len - 64 + i at position kv_len - 64 + i; lanes of rows before the first (q_len < 64) are computed and
// weigh nothing.
struct KeyChunk {
  const void* key = nullptr;  // row 0 of the kv head
  base::DType dtype = base::DType::f32;
  std::int64_t row_stride = 0;
  std::int64_t head_dim = 0;
  std::int64_t kv_len = 0;
  std::int64_t begin = 0, end = 0;  // keys of the chunk
  std::int64_t num_heads = 0;       // query heads of the group
  const float* queries = nullptr;   // [num_heads, steps, 64], see Steps::bf16_pairs
  std::int64_t query_stride = 0;    // floats between heads of `queries`
  float scale = 0;                  // softmax_scale * log2(e): scores are kept in units of log 2
};

// Softmax statistics of one chunk, [64] each: the largest score, and the sum of 2^(score - row_max).
struct RowStatistics {
  float* row_max = nullptr;
  float* row_sum = nullptr;
  std::int64_t stride = 0;  // floats between heads
};

struct ChunkSums {
  const float* lse = nullptr;    // [num_heads, 64], base 2; -kMasked for lanes without a row
  float* column_sums = nullptr;  // row of the group's first head, indexed by key
  float* diagonal_sums =
      nullptr;  // the same, indexed by offset; key k of the chunk writes offset kv_len - 1 - k
  std::int64_t head_stride = 0;
  float* carry = nullptr;  // [64] a head: lane i is what offset kv_len - 63 - end + i still misses
  std::int64_t carry_stride = 0;
};

// What an instruction set provides; the driver (drive.h) does the rest.
struct Steps {
  // Keys whose scores are computed at a time: a [block_keys, 64] tile of scores, the keys and one head's
  // queries share L1.
  std::int64_t block_keys;
  // Packed queries: false: float values [head_dim, 64]; true: bf16 pairs (2 j, 2 j + 1) in 32-bit words
  // [head_dim / 2, 64].
  bool bf16_pairs;
  void (*scan)(const KeyChunk& chunk, const RowStatistics& out, float* scratch);
  void (*accumulate)(const KeyChunk& chunk, const ChunkSums& out, float* scratch);
};

// Room for a block of diagonal sums and what a vector's unaligned store writes before them.
constexpr std::int64_t line_floats(std::int64_t block_keys) {
  return block_keys + 16;
}

// Floats of scratch, on a 64-byte boundary, that scan and accumulate need.
constexpr std::int64_t scratch_floats(std::int64_t block_keys, std::int64_t head_dim) {
  return block_keys * (head_dim + 2 * kEstimateRows) + line_floats(block_keys);
}

// What the AMX steps take: heads of whole tile rows.
inline constexpr std::int64_t kAmxDims = 32, kAmxMaxHeadDim = 256;

const Steps& portable_steps();
const Steps& avx2_steps();
const Steps& avx512_steps();
const Steps& avx512bf16_steps();
const Steps& amx_steps();

}  // namespace minference::kernels::estimate
