#pragma once

#include <cstdint>

#include "base/dtype.h"

// What one instruction set provides to transposed_attention(): attention of one row slice, tile by tile.
// Plain data and function pointers only, because the other side is compiled with instruction set flags.
//
// Scores are held transposed: vector lanes are query rows, so that the softmax needs no horizontal operation
// and keys are broadcast straight from where they lie. docs/kernels/attention-avx512.md describes the
// dataflow.
namespace minference::kernels {

inline constexpr int kSliceRows = 64;  // lanes: query rows of a slice
inline constexpr int kTileKeys = 64;

// 32 bits as the multiply instruction takes them: one f32, or two bf16 that lie next to each other (head_dim
// for queries and keys, keys for probabilities and values). "pack" below is 1 or 2, the values of an operand.
using Operand = std::uint32_t;

// The state of one row slice. A slice of n rows fills the last n lanes, so that skipping leading lanes serves
// short slices and the diagonal alike. Memory is 64-byte aligned and owned by the caller.
struct SliceState {
  int head_dim;            // a multiple of 8
  int first_lane;          // kSliceRows - n
  float scale_log2;        // softmax_scale * log2(e): scores are powers of two
  bool is_empty;           // no tile yet: the accumulator holds nothing
  bool has_references;     // every row has attended to a key
  Operand* query;          // [round_up(head_dim / pack, 16), 64]
  Operand* probabilities;  // [64 / pack, 64]: of the current tile, relative to 2^reference
  float* scores;           // [64, 64]: of the current tile, keys by rows
  float* accumulator;      // [round_up(head_dim, 16), 64]: sum of probability * value
  float* reference;        // [64]: what scores are relative to; -inf before the row's first key
  float* row_sum;          // [64]: sum of probabilities as they are multiplied, relative to 2^reference
  float* lse_sum;   // [64]: the same before they were rounded; null where it is row_sum, or no LSE is wanted
  float* tile_sum;  // [64]: scratch
  float* tile_lse_sum;  // [64]: scratch
  float* offset;        // [64]: scratch; references as TransposedLoop's RoundedExp2 takes them
  Operand* rows;        // [16, round_up(head_dim, 16)]: scratch
};

// Keys and values of up to 64 keys.
struct KeyValueTile {
  const void* key;           // operands [num_keys, head_dim / pack]
  std::int64_t key_pitch;    // bytes from key to key
  const void* value;         // operands [num_keys / pack, head_dim]
  std::int64_t value_pitch;  // bytes from row to row
  int num_keys;              // even, in [4, 64]
  const std::uint64_t*
      lanes;             // [num_keys], bit i: lane i attends to the key; null: every lane to all 64 keys
  bool lanes_agree;      // each of `lanes` has every lane with a row, or none
  const void* next_key;  // keys that will be needed next, with the same pitch: a hint, may be null
};

struct SliceKernel {
  int pack;               // 2: bf16 operands; 1: f32 operands
  bool rounds_exponents;  // false: probabilities are f32 until they are multiplied

  // Whether keys and values of `type` are operands already (values only when pack is 1).
  base::DType operand_type;

  // Reads the slice's rows; `row_stride` in elements.
  void (*begin)(SliceState& state, base::DType type, const void* rows, std::int64_t row_stride);
  // Adds a tile.
  void (*attend)(SliceState& state, const KeyValueTile& tile);
  // Writes accumulator / row_sum, 0 where the sum is 0.
  void (*finish)(const SliceState& state, base::DType type, void* rows, std::int64_t row_stride);

  // One key as operands: [head_dim / pack].
  void (*pack_key)(base::DType type, const void* key, int head_dim, Operand* out);
  // The values of two keys as operands: [2 / pack, head_dim].
  void (*pack_values)(base::DType type, const void* even, const void* odd, int head_dim, Operand* out);
};

}  // namespace minference::kernels
