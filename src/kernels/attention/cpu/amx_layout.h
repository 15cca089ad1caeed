#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

// What the AMX kernel's parts share: the memory they work on, and the stages that are compiled for AMX. No
// SIMD and no standard containers here: the stages are compiled for an instruction set that the rest of the
// library must not need.
//
// Names: a *row group* is 32 query rows of one head, a *unit* 32 keys, a *chunk* up to 4 units of one row
// group. Scores, probabilities and output are held transposed: query rows run along vectors.
// docs/kernels/attention-amx.md draws the dataflow.
namespace minference::kernels::amx {

inline constexpr int kGroupRows = 32;
inline constexpr int kUnitKeys = 32;
inline constexpr int kChunkUnits = 4;
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kDimStep = 32;  // padded_dim, head_dim rounded up with zeros, is a multiple of it

// 32 keys, packed in the order in which tile instructions read them, so that the processor's prefetchers follow:
// keys [padded_dim / 32][32 keys][32], then values [padded_dim][32 keys].
struct Unit {
  const std::byte* packed;
  bool masked;  // false: every row attends to every key
};

constexpr std::int64_t unit_bytes(std::int64_t padded_dim) {
  return 2 * padded_dim * kUnitKeys * 2;
}

// One head's 32 rows. Buffers are 64-byte aligned.
struct RowGroup {
  std::byte* query;  // packed; absent rows and dimensions are zero
  float* out_sums;   // [padded_dim / 32][32 dimensions][32 rows]: sum of p * value
  float* exp_sums;   // [32 rows]: sum of p as it is multiplied, rounded to bf16
  // [32 rows]: p = exp2(score - reference), scores in units of log 2. A whole number: the stages take one some way above
  // the largest score of the first unit, unless has_reference says that this is above the largest of all already.
  float* reference;
  float* lse_sums;  // [32 rows]: sum of p in f32; only when lse is wanted
  bool has_reference;
  bool out_of_range;  // set when some row's sum left the range in which nothing is lost: do it again with
                      // has_reference

  std::int64_t first_position;  // of the first row
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
  std::uint32_t masks[kChunkUnits][kUnitKeys];  // of masked units. Bit i: row i attends to the key.
};

// 32 x 32 f32, what the four accumulators hold.
inline constexpr int kBlockFloats = 32 * 32;

// One worker's state between chunks. Fill chunks[next], then push.
struct Pipeline {
  std::int64_t head_dim;
  std::int64_t padded_dim;
  float scale;  // softmax scale / log 2
  bool with_lse;

  Chunk chunks[3];
  int next;
  int score_slot, probability_slot;
  float* pending;                             // where the accumulators still have to be stored
  alignas(64) float scores[2][kBlockFloats];  // [32 keys][32 rows]
  // Of each unit, for either half of the rows: [16 pairs of keys][16 rows][2].
  alignas(64) base::bfloat16 probabilities[2][kChunkUnits][kUnitKeys * kGroupRows];
  alignas(64) float discarded[kBlockFloats];
};

// The parts that are compiled for AMX.
struct Stages {
  // 32 rows of head_dim elements each into RowGroup::query, padded_dim * 64 bytes.
  void (*pack_queries)(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                       std::byte* query);
  // The keys and values of 32 rows each into a unit.
  void (*pack_unit)(const base::bfloat16* const* keys, const base::bfloat16* const* values,
                    std::int64_t head_dim, std::int64_t padded_dim, std::byte* unit);
  // The calling thread's tile registers are its own between the two.
  void (*begin)(Pipeline& pipeline);
  void (*end)(Pipeline& pipeline);
  // Takes in chunks[next]; an empty one moves those before it on. Rows are written out two chunks after their
  // last.
  void (*push)(Pipeline& pipeline);
  // reference[row] = max(itself, the row's scores of the unit). Nothing may be in the pipeline.
  void (*raise_reference)(Pipeline& pipeline, RowGroup& rows, const Unit& unit, const std::uint32_t* masks);
};

}  // namespace minference::kernels::amx
