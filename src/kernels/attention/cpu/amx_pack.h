#pragma once

#include <immintrin.h>

#include "cpu/avx512.h"
#include "kernels/attention/cpu/amx_layout.h"

// Packing for tile products (AVX-512BW).
namespace minference::kernels::amx {
namespace {

// Lanes of 16 bits that lie before `dim`, of the 32 from `begin` on.
inline __mmask32 lanes_before(std::int64_t dim, std::int64_t begin) {
  const std::int64_t count = dim - begin;
  return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
}

inline constexpr int kTileWords = 16;  // words of 32 bits in a row of a tile

// Right operands: for every 32 dimensions and 16 rows a tile of [16 pairs of dimensions][16 rows][2].
inline void pack_queries(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                         std::byte* query) {
  alignas(64) std::uint32_t pairs[16 * kTileWords];
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep) {
    const __mmask32 lanes = lanes_before(head_dim, dim);
    for (int first = 0; first < kGroupRows; first += 16, query += 1024) {
      for (int i = 0; i < 16; ++i) {
        _mm512_store_si512(pairs + i * kTileWords, _mm512_maskz_loadu_epi16(lanes, rows[first + i] + dim));
      }
      cpu::avx512::Simd::transpose(pairs, kTileWords, reinterpret_cast<std::uint32_t*>(query), kTileWords);
    }
  }
}

// Left operands: for every dimension 32 keys.
inline void pack_values(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                        std::byte* block) {
  const __m512i first_half = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i second_half = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  alignas(64) std::uint32_t pairs[2][16 * kTileWords];  // of keys; 16 dimensions each
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep) {
    const __mmask32 lanes = lanes_before(head_dim, dim);
    for (int i = 0; i < kUnitKeys / 2; ++i) {
      const __m512i even = _mm512_maskz_loadu_epi16(lanes, rows[2 * i] + dim);
      const __m512i odd = _mm512_maskz_loadu_epi16(lanes, rows[2 * i + 1] + dim);
      // Each unpack pairs up half of every 128-bit lane.
      const __m512i low = _mm512_unpacklo_epi16(even, odd);
      const __m512i high = _mm512_unpackhi_epi16(even, odd);
      _mm512_store_si512(pairs[0] + i * kTileWords, _mm512_permutex2var_epi64(low, first_half, high));
      _mm512_store_si512(pairs[1] + i * kTileWords, _mm512_permutex2var_epi64(low, second_half, high));
    }
    for (int half = 0; half < 2; ++half, block += 1024) {
      cpu::avx512::Simd::transpose(pairs[half], kTileWords, reinterpret_cast<std::uint32_t*>(block),
                                   kTileWords);
    }
  }
}

// Left operands: for every 32 dimensions 32 keys.
inline void pack_keys(const base::bfloat16* const* rows, std::int64_t head_dim, std::int64_t padded_dim,
                      std::byte* block) {
  for (int i = 0; i < kUnitKeys; ++i, block += 64) {
    for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep) {
      const __m512i row = _mm512_maskz_loadu_epi16(lanes_before(head_dim, dim), rows[i] + dim);
      _mm512_store_si512(block + dim * kUnitKeys * 2, row);
    }
  }
}

inline void pack_unit(const base::bfloat16* const* keys, const base::bfloat16* const* values,
                      std::int64_t head_dim, std::int64_t padded_dim, std::byte* unit) {
  pack_keys(keys, head_dim, padded_dim, unit);
  pack_values(values, head_dim, padded_dim, unit + unit_bytes(padded_dim) / 2);
}

}  // namespace
}  // namespace minference::kernels::amx
