#pragma once

#include "cpu/avx512.h"

namespace minference::kernels::estimate {
namespace {

struct Avx512Words : cpu::avx512::Simd {
  static constexpr bool kAhead = false;
  static constexpr std::int64_t kBlockKeys = 24;
  static constexpr int kTileKeys = 6, kTileVectors = 4;

  static float sum(F32x16 x) { return _mm512_reduce_add_ps(x); }
  static F32x16 shift_in(F32x16 low, F32x16 high) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), 15));
  }
};

}  // namespace
}  // namespace minference::kernels::estimate
