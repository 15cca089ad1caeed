#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "sparse/rules.h"

// What the AMX kernel's three parts share: the memory they work on, and the stages that are compiled for AMX.
// No SIMD and no standard containers here: the stages are compiled for an instruction set that the rest of
// the library must not need.
//
// Names: a *row group* is 32 query rows of one head, a *unit* 32 keys, a *chunk* up to 4 units of one row
// group. docs/kernels/attention-amx.md draws the dataflow.
namespace minference::kernels::amx {

inline constexpr int kGroupRows = 32;
inline constexpr int kUnitKeys = 32;
inline constexpr int kChunkUnits = 4;
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kDimStep = 32;  // padded_dim, head_dim rounded up with zeros, is a multiple of it

// Packed keys. A block holds 288 consecutive keys from a multiple of 256 on, so that every unit lies in one
// block wherever it starts. Dword (i, j) of a block is the pair (key[j][2i], key[j][2i + 1]). Its rows are 19
// cache lines long, an odd number, so that a column of them spreads over all sets of the L1 cache.
inline constexpr std::int64_t kKeyBlockStarts = 256;
inline constexpr std::int64_t kKeyBlockKeys = kKeyBlockStarts + kUnitKeys;
inline constexpr std::int64_t kKeyRowBytes = 19 * 64;
static_assert(kKeyBlockKeys * 4 <= kKeyRowBytes);

constexpr std::int64_t key_block_bytes(std::int64_t padded_dim) {
  return padded_dim / 2 * kKeyRowBytes;
}

// Packed values. Dword (i, c) of a plane is the pair (value[2i + parity][c], value[2i + parity + 1][c]); rows
// have padded_dim dwords. A unit that starts at an odd key reads the plane of odd parity.
constexpr std::int64_t value_row_bytes(std::int64_t padded_dim) {
  return padded_dim * 4;
}

struct Unit {
  const std::byte* key;
  const std::byte* value;
  bool masked;  // false: every row attends to its 32 keys
};

// One head's 32 rows. Buffers are 64-byte aligned.
struct RowGroup {
  base::bfloat16* query;  // [32, padded_dim]; absent rows and dimensions are zero
  float* out_sums;        // [32, padded_dim]: sum of p * value
  float* exp_sums;        // [32, 16]: sum of p, by lane
  // p = exp2(score - reference[row]), scores in units of log 2. The stages take the largest score of the
  // first unit, unless has_reference says that this is the largest of all already.
  alignas(64) float reference[kGroupRows];
  bool has_reference;
  bool out_of_range;  // set when some row's sum left the range in which nothing is lost: do it again with
                      // has_reference

  sparse::PairRule rule;
  std::int64_t first_position;  // of the first row
  std::int64_t kv_len;
  int num_rows;
  base::bfloat16* out;  // first row; stride in elements
  std::int64_t out_stride;
  float* lse;  // first row, or null; stride in elements
  std::int64_t lse_stride;
};

struct Chunk {
  RowGroup* rows;
  int num_units;
  bool first, last;      // of the row group's chunks
  int probability_slot;  // set by push
  Unit units[kChunkUnits];
  // Keys of the masked units. Lanes of no key hold kNoKey.
  alignas(64) std::int32_t positions[kChunkUnits][kUnitKeys];
};
inline constexpr std::int32_t kNoKey = INT32_MAX;

// 32 x 32 f32 in memory: four tiles.
struct Block {
  float* data;
  std::int64_t stride;  // bytes

  float* tile(int i) const { return data + (i >> 1) * 16 * (stride / 4) + (i & 1) * 16; }
};

// One worker's state between chunks. Fill chunks[next], then push.
struct Pipeline {
  std::int64_t head_dim;
  std::int64_t padded_dim;
  float scale;  // softmax scale / log 2

  Chunk chunks[3];
  int next;
  int score_slot, probability_slot;
  Block pending;  // where the accumulators still have to be stored
  alignas(64) float scores[2][kGroupRows * kUnitKeys];
  alignas(64) base::bfloat16 probabilities[2][kGroupRows * kChunkUnits * kUnitKeys];
  alignas(64) float discarded[kGroupRows * kUnitKeys];
};

// The parts that are compiled for AMX.
struct Stages {
  // 16 keys into 16 columns of a key block. rows[i]: head_dim elements.
  void (*pack_keys)(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                    std::byte* columns);
  // Rows of a value plane from pairs (rows[2i], rows[2i + 1]).
  void (*pack_values)(const base::bfloat16* const* rows, std::int64_t num_pairs, std::int64_t head_dim,
                      std::int64_t padded_dim, std::byte* packed);
  // The calling thread's tile registers are its own between the two.
  void (*begin)(Pipeline& pipeline);
  void (*end)(Pipeline& pipeline);
  // Takes in chunks[next]; an empty one moves those before it on. Rows are written out two chunks after their
  // last.
  void (*push)(Pipeline& pipeline);
  // reference[row] = max(itself, the row's scores of the unit). Nothing may be in the pipeline.
  void (*raise_reference)(Pipeline& pipeline, RowGroup& rows, const Unit& unit,
                          const std::int32_t* positions);
};

}  // namespace minference::kernels::amx
