#pragma once

#include <cstring>

#include "kernels/attention/cpu/slice_kernel.h"

namespace minference::kernels {

// TransposedLoop policy of f32 arithmetic on the vector words of cpu/<isa>.h: inputs of other types are
// converted when they are packed.
template <class Simd, int kBlockSize, int kNumVectors>
struct F32Policy : Simd {
  using typename Simd::F32x16;
  static constexpr int kPack = 1;
  static constexpr int kBlock = kBlockSize;
  static constexpr int kVectors = kNumVectors;
  static constexpr int kExp2Degree = 5;
  static constexpr bool kRoundsExponents = false;

  static F32x16 load_operands(const Operand* p) { return Simd::load(p); }
  static F32x16 broadcast_operand(const void* p) {
    float x;
    std::memcpy(&x, p, sizeof x);
    return Simd::broadcast(x);
  }
  static F32x16 dot(F32x16 acc, F32x16 a, F32x16 b) { return Simd::multiply_add(a, b, acc); }
  static void store_probabilities(Operand* p, F32x16 even, F32x16 odd) {
    Simd::store(p, even);
    Simd::store(p + kSliceRows, odd);
  }

  static void pack_key(base::DType type, const void* key, int head_dim, Operand* out) {
    const auto* values = static_cast<const char*>(key);
    const int bytes = type == base::DType::f32 ? 4 : 2;
    for (int d = 0; d < head_dim; d += 16) {
      const int count = head_dim - d < 16 ? 8 : 16;
      Simd::store_as(base::DType::f32, out + d, Simd::load_as(type, values + d * bytes, count), count);
    }
  }
  static void pack_values(base::DType type, const void* even, const void* odd, int head_dim, Operand* out) {
    pack_key(type, even, head_dim, out);
    pack_key(type, odd, head_dim, out + head_dim);
  }
};

}  // namespace minference::kernels
