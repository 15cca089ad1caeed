#pragma once

#include <immintrin.h>

#include "cpu/avx512.h"
#include "kernels/attention/cpu/amx_layout.h"

// Packing of keys and values for tile products (AVX-512BW).
namespace minference::kernels::amx {
namespace {

// Lanes of 16 bits that lie before `dim`, of the 32 from `begin` on.
inline __mmask32 lanes_before(std::int64_t dim, std::int64_t begin) {
  const std::int64_t count = dim - begin;
  return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
}

inline void pack_keys(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                      std::byte* block) {
  constexpr int kRowWords = 16;
  alignas(64) std::uint32_t pairs[kBlockKeys * kRowWords];
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep) {
    const __mmask32 lanes = lanes_before(head_dim, dim);
    for (int i = 0; i < kBlockKeys; ++i) {
      _mm512_store_si512(pairs + i * kRowWords, _mm512_maskz_loadu_epi16(lanes, rows[i] + dim));
    }
    cpu::avx512::Simd::transpose(pairs, kRowWords, reinterpret_cast<std::uint32_t*>(block + dim / 2 * 64),
                                 kRowWords);
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
