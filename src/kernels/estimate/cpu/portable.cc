#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

// Four lanes, which the compiler maps to the baseline's vectors.
struct Portable {
  using Float = float __attribute__((vector_size(16)));
  using Int = std::int32_t __attribute__((vector_size(16)));
  using Key = float;
  static constexpr int kWidth = 4, kTileKeys = 2, kTileVectors = 4;

  static Float zero() { return Float{}; }
  static Float broadcast(float x) { return Float{x, x, x, x}; }
  static Float load(const float* p) {
    Float x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, Float x) { std::memcpy(p, &x, sizeof x); }
  static Float add(Float a, Float b) { return a + b; }
  static Float sub(Float a, Float b) { return a - b; }
  static Float mul(Float a, Float b) { return a * b; }
  static Float max(Float a, Float b) { return a > b ? a : b; }
  static float sum(Float x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static Float shift_in(Float low, Float high) { return __builtin_shuffle(low, high, Int{3, 4, 5, 6}); }

  // 2^x for x <= 1, as 2^n 2^f with f in [-0.5, 0.5] and the Taylor series of 2^f, error 2e-7; below 2^-126
  // zero.
  static Float exp2(Float x) {
    constexpr float kRound =
        12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
    const Float clamped = x < -126.0f ? broadcast(-126.0f) : x;
    const Float shifted = clamped + kRound;
    const Float f = clamped - (shifted - kRound);
    Float p = broadcast(1.5403530e-4f);
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    Int n;
    std::memcpy(&n, &shifted, sizeof n);
    n = (n - 0x4b400000 + 127) << 23;
    Float power;
    std::memcpy(&power, &n, sizeof power);
    return x < -126.0f ? zero() : p * power;
  }

  static constexpr bool is_direct(base::DType dtype) { return dtype == base::DType::f32; }
  static void convert(const void* source, base::DType dtype, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = base::load_float(source, dtype, i);
  }
  static std::int64_t steps(std::int64_t head_dim) { return head_dim; }
  static Float key_at(const Key* key, std::int64_t step) { return broadcast(key[step]); }
  static Float dot(Float query, Float key, Float sum) { return sum + query * key; }
};

}  // namespace

const Steps& portable_steps() {
  static constexpr Steps steps{false, MainLoop<Portable>::scan, MainLoop<Portable>::accumulate};
  return steps;
}

}  // namespace minference::kernels::estimate
