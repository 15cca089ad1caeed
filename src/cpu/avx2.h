#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "cpu/exp2.h"

namespace minference::cpu::avx2 {
namespace {

// Sixteen f32 lanes in two registers: the words of avx512.h, with the same meaning.
struct Simd {
  struct F32x16 {
    __m256 low, high;
  };

  static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const void* p) {
    const auto* floats = static_cast<const float*>(p);
    return {_mm256_load_ps(floats), _mm256_load_ps(floats + 8)};
  }
  static void store(void* p, F32x16 x) {
    auto* floats = static_cast<float*>(p);
    _mm256_store_ps(floats, x.low);
    _mm256_store_ps(floats + 8, x.high);
  }
  static F32x16 add(F32x16 a, F32x16 b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static F32x16 multiply(F32x16 a, F32x16 b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static F32x16 multiply_add(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32x16 multiply_subtract(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
  }
  static F32x16 subtract(F32x16 a, F32x16 b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static F32x16 maximum(F32x16 a, F32x16 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }

  static std::uint32_t less(F32x16 a, F32x16 b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ));
    return static_cast<std::uint32_t>(low | high << 8);
  }
  static F32x16 select(std::uint32_t mask, F32x16 a, F32x16 b) {
    return {_mm256_blendv_ps(b.low, a.low, lanes_of(mask)),
            _mm256_blendv_ps(b.high, a.high, lanes_of(mask >> 8))};
  }

  template <int kDegree>
  static F32x16 exp2(F32x16 x) {
    return {exp2_half<kDegree>(x.low), exp2_half<kDegree>(x.high)};
  }

  static F32x16 load_as(base::DType type, const void* p, int count) {
    return {load_half(type, p), count > 8 ? load_half(type, byte_offset(type, p, 8)) : _mm256_setzero_ps()};
  }
  static void store_as(base::DType type, void* p, F32x16 x, int count) {
    store_half(type, p, x.low);
    if (count > 8) store_half(type, const_cast<void*>(byte_offset(type, p, 8)), x.high);
  }

  static void transpose(const std::uint32_t* from, int from_stride, std::uint32_t* to, int to_stride) {
    for (int i = 0; i < 16; i += 8) {
      for (int j = 0; j < 16; j += 8)
        transpose8(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
  }

 private:
  static const void* byte_offset(base::DType type, const void* p, int values) {
    return static_cast<const char*>(p) + values * (type == base::DType::f32 ? 4 : 2);
  }

  static __m256 lanes_of(std::uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit));
  }

  // Clamped to the exponents of f32: at most 2^127, at least 2^-126 (a probability that no sum notices). The
  // operand order of min and max keeps NaN.
  template <int kDegree>
  static __m256 exp2_half(__m256 x) {
    constexpr auto& c = Exp2Polynomial<kDegree>::kCoefficients;
    x = _mm256_min_ps(_mm256_set1_ps(127.0f), _mm256_max_ps(_mm256_set1_ps(-126.0f), x));
    const __m256 floor = _mm256_floor_ps(x);
    const __m256 fraction = _mm256_sub_ps(x, floor);
    __m256 power = _mm256_set1_ps(c[kDegree - 1]);
#pragma GCC unroll 8
    for (int i = kDegree - 2; i >= 0; --i) power = _mm256_fmadd_ps(power, fraction, _mm256_set1_ps(c[i]));
    power = _mm256_fmadd_ps(power, fraction, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127));
    return _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  static __m256 load_half(base::DType type, const void* p) {
    if (type == base::DType::f32) return _mm256_loadu_ps(static_cast<const float*>(p));
    const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(p));
    if (type == base::DType::f16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }

  static void store_half(base::DType type, void* p, __m256 x) {
    if (type == base::DType::f32) return _mm256_storeu_ps(static_cast<float*>(p), x);
    const __m128i halves =
        type == base::DType::f16 ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : round_to_bf16(x);
    _mm_storeu_si128(static_cast<__m128i*>(p), halves);
  }

  static __m128i round_to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }

  static void transpose8(const std::uint32_t* from, int from_stride, std::uint32_t* to, int to_stride) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) r[i] = _mm256_load_ps(reinterpret_cast<const float*>(from + i * from_stride));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      auto* low = reinterpret_cast<float*>(to + j * to_stride);
      auto* high = reinterpret_cast<float*>(to + (4 + j) * to_stride);
      _mm256_store_ps(low, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
      _mm256_store_ps(high, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
    }
  }
};

}  // namespace
}  // namespace minference::cpu::avx2
