#include "kernels/estimate/cpu/avx512_words.h"
#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

// VDPBF16PS reads the caller's keys as they are, two dimensions a step.
struct Avx512Bf16 : Avx512Words {
  using Key = base::bfloat16;
  static constexpr base::DType kDirect = base::DType::bf16;
  static constexpr int kDimsPerStep = 2;

  static __m512i key_at(const Key* key, std::int64_t step) {
    std::int32_t pair;
    std::memcpy(&pair, key + 2 * step, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static F32x16 dot(F32x16 query, __m512i key, F32x16 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)query, (__m512bh)key);
  }
};

}  // namespace

const Steps& avx512bf16_steps() {
  static constexpr Steps steps = MainLoop<Avx512Bf16>::steps(true);
  return steps;
}

}  // namespace minference::kernels::estimate
