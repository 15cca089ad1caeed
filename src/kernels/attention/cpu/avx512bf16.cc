#include <immintrin.h>

#include "cpu/avx512.h"
#include "cpu/bf16_exp2.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_loop.h"

namespace minference::kernels::avx512bf16 {
namespace {

// The words of two vectors of 16, one after the other, next to each other.
alignas(64) constexpr std::uint16_t kInterleaved[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                        21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                        11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// VDPBF16PS: 24 accumulators of its latency, 4 vectors of query, one broadcast of keys leave 3 registers for
// the exponentials.
struct Policy : cpu::avx512::Simd {
  static constexpr int kPack = 2;
  static constexpr int kBlock = 6;
  static constexpr int kVectors = 4;
  static constexpr int kExp2Degree = 3;
  static constexpr bool kRoundsExponents = true;
  using RoundedExp2 = cpu::Bf16Exp2<false>;

  using Simd::store;
  static void store(void* p, __m512i x) { _mm512_store_si512(p, x); }

  static __m512bh load_operands(const Operand* p) { return reinterpret_cast<__m512bh>(_mm512_load_si512(p)); }
  static __m512bh broadcast_operand(const void* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static __m512 dot(__m512 acc, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(acc, a, b); }

  static void store_probabilities(Operand* p, __m512 even, __m512 odd) {
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    _mm512_store_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved), halves));
  }

  static __m512 add_probabilities(__m512 sum, const Operand* p) {
    return RoundedExp2::add_pairs(sum, _mm512_load_si512(p));
  }

  static void store_as(base::DType, void* p, __m512 x, int count) {
    const auto halves = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    if (count == 16) return _mm256_storeu_si256(static_cast<__m256i*>(p), halves);
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(halves));
  }

  // Rows are copied 32 values at a time; head_dim is a multiple of 8.
  static void pack_key(base::DType, const void* key, int head_dim, Operand* out) {
    const auto* values = static_cast<const std::uint16_t*>(key);
    int d = 0;
    for (; d + 32 <= head_dim; d += 32) _mm512_storeu_si512(out + d / 2, _mm512_loadu_si512(values + d));
    for (; d < head_dim; d += 8) {
      const auto eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + d));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + d / 2), eight);
    }
  }
  static void pack_values(base::DType, const void* even, const void* odd, int head_dim, Operand* out) {
    const auto* low = static_cast<const std::uint16_t*>(even);
    const auto* high = static_cast<const std::uint16_t*>(odd);
    // Words of `b` follow the 32 of `a` for a permutation of both.
    const __m512i first_half = _mm512_add_epi16(_mm512_load_si512(kInterleaved), _mm512_set1_epi32(16 << 16));
    const __m512i second_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(16));
    int d = 0;
    for (; d + 32 <= head_dim; d += 32) {
      const __m512i a = _mm512_loadu_si512(low + d), b = _mm512_loadu_si512(high + d);
      _mm512_storeu_si512(out + d, _mm512_permutex2var_epi16(a, first_half, b));
      _mm512_storeu_si512(out + d + 16, _mm512_permutex2var_epi16(a, second_half, b));
    }
    for (; d < head_dim; d += 8) {
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low + d));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high + d));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + d), _mm_unpacklo_epi16(a, b));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + d + 4), _mm_unpackhi_epi16(a, b));
    }
  }
};

}  // namespace

const SliceKernel kSliceKernel = make_slice_kernel<Policy>(base::DType::bf16);

}  // namespace minference::kernels::avx512bf16
