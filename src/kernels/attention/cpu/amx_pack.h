#pragma once

#include <immintrin.h>

#include "kernels/attention/cpu/amx_layout.h"

// Packing of keys and values for tile products (AVX-512BW).
namespace minference::kernels::amx {
namespace {

// Lanes of 16 bits that lie before `dim`, of the 32 from `begin` on.
inline __mmask32 lanes_before(std::int64_t dim, std::int64_t begin) {
  const std::int64_t count = dim - begin;
  return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
}

// x[i] lane j <-> x[j] lane i, for 16 x 16 dwords.
inline void transpose(__m512i x[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // 128-bit lane l of x[4i + c] holds column 4l + c of rows 4i .. 4i + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    t[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = t[i];
}

inline void pack_keys(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                      std::byte* block) {
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep) {
    const __mmask32 lanes = lanes_before(head_dim, dim);
    __m512i pairs[kBlockKeys];
    for (int i = 0; i < kBlockKeys; ++i) pairs[i] = _mm512_maskz_loadu_epi16(lanes, rows[i] + dim);
    transpose(pairs);
    for (int i = 0; i < kBlockKeys; ++i) _mm512_store_si512(block + (dim / 2 + i) * 64, pairs[i]);
  }
}

inline void align_keys(const std::byte* blocks, int offset, std::int64_t padded_dim, std::byte* unit) {
  const __m512i lanes = _mm512_add_epi32(
      _mm512_set1_epi32(offset), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
  const std::int64_t block_bytes = key_block_bytes(padded_dim);
  for (std::int64_t row = 0; row < block_bytes; row += 64) {
    const __m512i first = _mm512_load_si512(blocks + row);
    const __m512i second = _mm512_load_si512(blocks + block_bytes + row);
    const __m512i third = _mm512_load_si512(blocks + 2 * block_bytes + row);
    _mm512_store_si512(unit + row, _mm512_permutex2var_epi32(first, lanes, second));
    _mm512_store_si512(unit + block_bytes + row, _mm512_permutex2var_epi32(second, lanes, third));
  }
}

inline void pack_values(const base::bfloat16* const* rows, std::int64_t num_pairs, std::int64_t head_dim,
                        std::int64_t padded_dim, std::int64_t plane_bytes, std::byte* packed) {
  const __m512i first_half = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i second_half = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep, packed += plane_bytes) {
    const __mmask32 lanes = lanes_before(head_dim, dim);
    for (std::int64_t i = 0; i < num_pairs; ++i) {
      const __m512i even = _mm512_maskz_loadu_epi16(lanes, rows[2 * i] + dim);
      const __m512i odd = _mm512_maskz_loadu_epi16(lanes, rows[2 * i + 1] + dim);
      // Each unpack pairs up half of every 128-bit lane.
      const __m512i low = _mm512_unpacklo_epi16(even, odd);
      const __m512i high = _mm512_unpackhi_epi16(even, odd);
      std::byte* pairs = packed + i * kValueRowBytes;
      _mm512_store_si512(pairs, _mm512_permutex2var_epi64(low, first_half, high));
      _mm512_store_si512(pairs + 64, _mm512_permutex2var_epi64(low, second_half, high));
    }
  }
}

}  // namespace
}  // namespace minference::kernels::amx
