#pragma once

#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "cpu/exp2.h"

namespace minference::cpu::portable {
namespace {

// Sixteen f32 lanes in four vectors of the compiler: the words of avx512.h, with the same meaning, for any
// processor.
struct Simd {
  using F32x4 [[gnu::vector_size(16), gnu::may_alias]] = float;
  using I32x4 [[gnu::vector_size(16), gnu::may_alias]] = std::int32_t;
  struct F32x16 {
    F32x4 part[4];
  };

  static F32x16 zero() { return broadcast(0.0f); }
  static F32x16 broadcast(float x) {
    const F32x4 v = {x, x, x, x};
    return {{v, v, v, v}};
  }
  static F32x16 load(const void* p) {
    const auto* v = static_cast<const F32x4*>(p);
    return {{v[0], v[1], v[2], v[3]}};
  }
  static void store(void* p, const F32x16& x) {
    auto* v = static_cast<F32x4*>(p);
    for (int i = 0; i < 4; ++i) v[i] = x.part[i];
  }
  static F32x16 add(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 4; ++i) a.part[i] += b.part[i];
    return a;
  }
  static F32x16 multiply(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 4; ++i) a.part[i] *= b.part[i];
    return a;
  }
  static F32x16 multiply_add(const F32x16& a, const F32x16& b, F32x16 c) {
    for (int i = 0; i < 4; ++i) c.part[i] += a.part[i] * b.part[i];
    return c;
  }
  static F32x16 multiply_subtract(const F32x16& a, const F32x16& b, const F32x16& c) {
    return subtract(multiply(a, b), c);
  }
  static F32x16 subtract(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 4; ++i) a.part[i] -= b.part[i];
    return a;
  }
  static F32x16 maximum(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 4; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
  }

  static std::uint32_t less(const F32x16& a, const F32x16& b) {
    std::uint32_t mask = 0;
    for (int lane = 0; lane < 16; ++lane) {
      mask |= static_cast<std::uint32_t>(a.part[lane / 4][lane % 4] < b.part[lane / 4][lane % 4]) << lane;
    }
    return mask;
  }
  static F32x16 select(std::uint32_t mask, const F32x16& a, F32x16 b) {
    for (int lane = 0; lane < 16; ++lane) {
      if (mask >> lane & 1) b.part[lane / 4][lane % 4] = a.part[lane / 4][lane % 4];
    }
    return b;
  }

  // Clamped as in avx2.h.
  template <int kDegree>
  static F32x16 exp2(F32x16 x) {
    constexpr auto& c = Exp2Polynomial<kDegree>::kCoefficients;
    for (F32x4& part : x.part) {
      const F32x4 high = {127.0f, 127.0f, 127.0f, 127.0f};
      part = part < -high + 1.0f ? -high + 1.0f : part;
      part = part > high ? high : part;
      const I32x4 truncated = __builtin_convertvector(part, I32x4);
      // A comparison of vectors is -1 where it holds.
      const I32x4 floor = truncated + (part < __builtin_convertvector(truncated, F32x4));
      const F32x4 fraction = part - __builtin_convertvector(floor, F32x4);
      F32x4 power = fraction * 0.0f + c[kDegree - 1];
      for (int i = kDegree - 2; i >= 0; --i) power = power * fraction + c[i];
      power = power * fraction + 1.0f;
      const I32x4 exponent = (floor + 127) << 23;
      part = power * reinterpret_cast<const F32x4&>(exponent);
    }
    return x;
  }

  static F32x16 load_as(base::DType type, const void* p, int count) {
    F32x16 x = zero();
    for (int lane = 0; lane < count; ++lane) x.part[lane / 4][lane % 4] = base::load_float(p, type, lane);
    return x;
  }
  static void store_as(base::DType type, void* p, const F32x16& x, int count) {
    for (int lane = 0; lane < count; ++lane) base::store_float(p, type, lane, x.part[lane / 4][lane % 4]);
  }

  static void transpose(const std::uint32_t* from, int from_stride, std::uint32_t* to, int to_stride) {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
};

}  // namespace
}  // namespace minference::cpu::portable
