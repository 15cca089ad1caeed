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

// All operands lie in memory in the order in which tile instructions read them, so that the processor's
// prefetchers follow.

// Packed keys: blocks of 16 consecutive keys, [padded_dim / 2][16] pairs (key[j][2i], key[j][2i + 1]). A unit
// is two consecutive blocks; one that starts inside a block is copied together first (Stages::align_keys).
inline constexpr int kBlockKeys = 16;
constexpr std::int64_t key_block_bytes(std::int64_t padded_dim) {
  return padded_dim / 2 * 64;
}

// Packed values: for every 32 dimensions a plane of rows of 32 pairs (value[k][c], value[k + 1][c]), k either
// the even keys or the odd ones: a unit is 16 rows of the planes of its first key's parity.
inline constexpr std::int64_t kValueRowBytes = kDimStep * 4;

struct Unit {
  const std::byte* key;
  const std::byte* value;          // in the plane of dimension 0
  std::int64_t value_plane_bytes;  // distance of the planes
  bool masked;                     // false: every row attends to its 32 keys
};

// One head's 32 rows. Buffers are 64-byte aligned.
struct RowGroup {
  base::bfloat16* query;  // [padded_dim / 32][32 rows][32]; absent rows and dimensions are zero
  float* out_sums;        // [padded_dim / 32][32 rows][32]: sum of p * value
  float* exp_sums;        // [32 rows][16]: sum of p, by lane
  // [32 rows][16 times the same]: p = exp2(score - reference), scores in units of log 2. The stages take the
  // largest score of the first unit, unless has_reference says that this is the largest of all already.
  float* reference;
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

// 32 x 32 f32, what the four accumulators hold.
inline constexpr int kBlockFloats = kGroupRows * 32;

// One worker's state between chunks. Fill chunks[next], then push.
struct Pipeline {
  std::int64_t head_dim;
  std::int64_t padded_dim;
  float scale;  // softmax scale / log 2

  Chunk chunks[3];
  int next;
  int score_slot, probability_slot;
  float* pending;  // where the accumulators still have to be stored
  alignas(64) float scores[2][kBlockFloats];
  alignas(64) base::bfloat16 probabilities[2][kChunkUnits][kGroupRows * kUnitKeys];
  alignas(64) float discarded[kBlockFloats];
};

// The parts that are compiled for AMX.
struct Stages {
  // rows[16], head_dim elements each, into a block.
  void (*pack_keys)(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                    std::byte* block);
  // The 32 keys that start `offset` keys into the first of three consecutive blocks, into two blocks.
  void (*align_keys)(const std::byte* blocks, int offset, std::int64_t padded_dim, std::byte* unit);
  // Pairs (rows[2i], rows[2i + 1]) into consecutive rows of every plane.
  void (*pack_values)(const base::bfloat16* const* rows, std::int64_t num_pairs, std::int64_t head_dim,
                      std::int64_t padded_dim, std::int64_t plane_bytes, std::byte* packed);
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
