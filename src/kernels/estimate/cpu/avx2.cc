#include "cpu/avx2.h"

#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

struct Avx2 : cpu::avx2::Simd {
  using Key = float;
  static constexpr base::DType kDirect = base::DType::f32;
  static constexpr bool kAhead = false;
  static constexpr std::int64_t kBlockKeys = 24;
  static constexpr int kTileKeys = 6, kTileVectors = 1, kDimsPerStep = 1;

  static float sum(F32x16 x) {
    const __m256 half = _mm256_add_ps(x.low, x.high);
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
  static F32x16 shift_in(F32x16 low, F32x16 high) {
    return {shift_in_half(low.high, high.low), shift_in_half(high.low, high.high)};
  }

  static F32x16 key_at(const Key* key, std::int64_t step) { return broadcast(key[step]); }
  static F32x16 dot(F32x16 query, F32x16 key, F32x16 sum) { return multiply_add(query, key, sum); }

 private:
  static __m256 shift_in_half(__m256 low, __m256 high) {
    const __m256i middle =
        _mm256_castps_si256(_mm256_permute2f128_ps(low, high, 0x21));  // low's upper, high's lower half
    return _mm256_castsi256_ps(_mm256_alignr_epi8(_mm256_castps_si256(high), middle, 12));
  }
};

}  // namespace

const Steps& avx2_steps() {
  static constexpr Steps steps = MainLoop<Avx2>::steps(false);
  return steps;
}

}  // namespace minference::kernels::estimate
