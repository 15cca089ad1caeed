#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "cpu/exp2.h"

namespace minference::cpu::avx512 {
namespace {

// Sixteen f32 lanes in one register. The same words, with the same meaning, exist for every instruction set
// (avx2.h, portable.h); a mask has one bit a lane.
struct Simd {
  using F32x16 = __m512;

  static F32x16 zero() { return _mm512_setzero_ps(); }
  static F32x16 broadcast(float x) { return _mm512_set1_ps(x); }
  static F32x16 load(const void* p) { return _mm512_load_ps(p); }  // 64-byte aligned, as store()
  static void store(void* p, F32x16 x) { _mm512_store_ps(p, x); }
  static F32x16 add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
  static F32x16 multiply(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
  static F32x16 multiply_add(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }
  static F32x16 multiply_subtract(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmsub_ps(a, b, c); }
  static F32x16 subtract(F32x16 a, F32x16 b) { return _mm512_sub_ps(a, b); }
  static F32x16 maximum(F32x16 a, F32x16 b) { return _mm512_max_ps(a, b); }

  // A bit where a < b; never where either is NaN.
  static std::uint32_t less(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  // a where the mask has a bit, otherwise b.
  static F32x16 select(std::uint32_t mask, F32x16 a, F32x16 b) {
    return _mm512_mask_mov_ps(b, static_cast<__mmask16>(mask), a);
  }

  // 2^x; 0 at -inf and below the range of f32, inf above it, NaN at NaN.
  template <int kDegree>
  static F32x16 exp2(F32x16 x) {
    constexpr auto& c = Exp2Polynomial<kDegree>::kCoefficients;
    const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 power = _mm512_set1_ps(c[kDegree - 1]);
#pragma GCC unroll 8
    for (int i = kDegree - 2; i >= 0; --i) power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(c[i]));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, x);
  }

  // The first `count` (8 or 16) values at p, unaligned, of any type; lanes beyond are 0.
  static F32x16 load_as(base::DType type, const void* p, int count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    if (type == base::DType::f32) return _mm512_maskz_loadu_ps(mask, p);
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, p);
    if (type == base::DType::f16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }

  // Stores the first `count` lanes, rounded to nearest even.
  static void store_as(base::DType type, void* p, F32x16 x, int count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    if (type == base::DType::f32) return _mm512_mask_storeu_ps(p, mask, x);
    const __m256i halves = type == base::DType::f16
                               ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                               : round_to_bf16(x);
    _mm256_mask_storeu_epi16(p, mask, halves);
  }

  // to[j][i] = from[i][j] for 16 x 16 words; strides in words; rows are 64-byte aligned.
  static void transpose(const std::uint32_t* from, int from_stride, std::uint32_t* to, int to_stride) {
    __m512i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(from + i * from_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    // r[4 i + j]: words 4 l + j (l the 128-bit lane) of rows 4 i .. 4 i + 3.
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i even_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
      const __m512i odd_low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
      const __m512i even_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
      const __m512i odd_high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
      _mm512_store_si512(to + j * to_stride, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
      _mm512_store_si512(to + (4 + j) * to_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
      _mm512_store_si512(to + (8 + j) * to_stride, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
      _mm512_store_si512(to + (12 + j) * to_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
    }
  }

 private:
  static __m256i round_to_bf16(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16));
  }
};

}  // namespace
}  // namespace minference::cpu::avx512
