#include <immintrin.h>

#include "cpu/avx512.h"
#include "kernels/attention/cpu/kernels.h"
#include "kernels/attention/cpu/transposed_loop.h"

namespace minference::kernels::avx512bf16 {
namespace {

// VDPBF16PS: 24 accumulators of its latency, 4 vectors of query, one broadcast of keys leave 3 registers for
// the exponentials.
struct Policy : cpu::avx512::Simd {
  static constexpr int kPack = 2;
  static constexpr int kBlock = 6;
  static constexpr int kVectors = 4;
  static constexpr int kExp2Degree = 3;

  static __m512bh load_operands(const Operand* p) { return reinterpret_cast<__m512bh>(_mm512_load_si512(p)); }
  static __m512bh broadcast_operand(const void* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static __m512 dot(__m512 acc, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(acc, a, b); }

  static void store_probabilities(Operand* p, __m512 even, __m512 odd) {
    // Keys of a lane next to each other: word 2 i is even[i], word 2 i + 1 is odd[i].
    alignas(64) static constexpr std::uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                  21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    _mm512_store_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves));
  }

  static void pack_key(base::DType, const void* key, int head_dim, Operand* out) {
    __builtin_memcpy(out, key, static_cast<std::size_t>(head_dim) * 2);
  }
  static void pack_values(base::DType, const void* even, const void* odd, int head_dim, Operand* out) {
    const auto* low = static_cast<const std::uint16_t*>(even);
    const auto* high = static_cast<const std::uint16_t*>(odd);
    for (int d = 0; d < head_dim; d += 16) {
      const auto mask = static_cast<__mmask16>(head_dim - d < 16 ? 0xff : 0xffff);
      const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, low + d));
      const __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, high + d));
      _mm512_mask_storeu_epi32(out + d, mask, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
  }
};

}  // namespace

const SliceKernel kSliceKernel = make_slice_kernel<Policy>(base::DType::bf16);

}  // namespace minference::kernels::avx512bf16
