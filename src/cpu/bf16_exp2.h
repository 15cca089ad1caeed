#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>

namespace minference::cpu {
namespace {

// 2^x as bf16, of two vectors at a time, by a table of the 128 mantissas (AVX512_BF16, AVX512_VBMI).
//
// A bf16 is 127 + floor(x) above 7 bits of mantissa, so 128 (x + 127), rounded to an integer, is it but for the
// mantissa: that should be 2^(x - floor(x)) - 1 and is x - floor(x). The table holds the difference, 0 to 11 of 128.
// Relative error at most 0.66 %: 2^-8 log 2 of x's rounding, 2^-8 of the mantissa's. Where probabilities are divided by
// their own sum, most of it cancels (docs/kernels/attention-avx512.md, "Exponentials").
template <bool kInRegisters>
class Bf16Exp2 {
 public:
  // Of x = scale * score - reference.
  explicit Bf16Exp2(float scale) : scale_(_mm512_set1_ps(128 * scale)) {
    if constexpr (kInRegisters) {
      // Keeps the compiler from loading them again at each use.
      __asm__("" : "+v"(scale_), "+v"(zero_), "+v"(infinity_));
      __asm__("" : "+v"(low_halves_), "+v"(table_[0]), "+v"(table_[1]));
    }
  }

  // A reference that offset_of() holds exactly, if it lies within 2^24 of 0; at least x.
  [[gnu::always_inline]] static __m512 reference_for(__m512 x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
  }
  // What integer() takes for a reference.
  [[gnu::always_inline]] static __m512 offset_of(__m512 reference) {
    return _mm512_fnmadd_ps(reference, _mm512_set1_ps(128), _mm512_set1_ps(kRounding + 127 * 128));
  }

  // The integer, in the last bits of a f32; 0 where `mask` has no bit. Where 2^x is too large for bf16, or NaN, it is
  // that of infinity; where it is too small, that of a subnormal number, which products take for 0.
  [[gnu::always_inline]] __m512i integer(__m512 score, __m512 offset, __mmask16 mask = 0xffff) const {
    const __m512 below =
        _mm512_min_ps(_mm512_fmadd_ps(score, scale_, offset), infinity_);  // of NaN: infinity_
    return _mm512_castps_si512(_mm512_maskz_max_ps(mask, below, zero_));
  }

  // Word i: 2^x of even[i], then of odd[i].
  [[gnu::always_inline]] __m512i pairs(__m512i even, __m512i odd) const {
    const __m512i words = _mm512_mask_shuffle_epi8(even, 0xcccccccccccccccc, odd, low_halves_);
    constexpr __mmask64 kLowBytes = 0x5555555555555555;
    return _mm512_sub_epi8(words, _mm512_maskz_permutex2var_epi8(kLowBytes, table_[0], words, table_[1]));
  }

  // sum[i] + even 2^x[i] + odd 2^x[i], of pairs.
  [[gnu::always_inline]] static __m512 add_pairs(__m512 sum, __m512i pairs) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(pairs),
                            reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80)));
  }

 private:
  // Adding it leaves an integer in the last bits.
  static constexpr float kRounding = 0x1.8p23f;

  // i - round(128 (2^(i / 128) - 1)).
  static constexpr std::array<std::uint8_t, 128> make_table() {
    std::array<std::uint8_t, 128> table{};
    constexpr double kStep = 1.0054299011128027;  // 2^(1 / 128)
    double power = 1;
    for (int i = 0; i < 128; ++i, power *= kStep) {
      table[static_cast<std::size_t>(i)] =
          static_cast<std::uint8_t>(i - static_cast<int>(128 * (power - 1) + 0.5));
    }
    return table;
  }
  alignas(64) static constexpr std::array<std::uint8_t, 128> kTable = make_table();

  __m512 scale_;
  __m512 zero_ = _mm512_set1_ps(kRounding);
  __m512 infinity_ = _mm512_set1_ps(kRounding + 0x7f80);
  __m512i low_halves_ = _mm512_set4_epi32(0x0d0c0000, 0x09080000, 0x05040000, 0x01000000);
  __m512i table_[2] = {_mm512_load_si512(kTable.data()), _mm512_load_si512(kTable.data() + 64)};
};

}  // namespace
}  // namespace minference::cpu
