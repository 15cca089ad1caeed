#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace minference::base {

// Values are those of minference_dtype in the C ABI.
enum class DType : std::int32_t { f32 = 1, f16 = 2, bf16 = 3 };

constexpr std::size_t size_of(DType type) {
  return type == DType::f32 ? 4 : 2;
}
constexpr const char* name_of(DType type) {
  return type == DType::f32 ? "float32" : type == DType::f16 ? "float16" : "bfloat16";
}

// Storage only: arithmetic is done in f32.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

inline float to_float(float x) {
  return x;
}

inline float to_float(bfloat16 x) {
  return std::bit_cast<float>(std::uint32_t{x.bits} << 16);
}

inline float to_float(float16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  // No f32 subnormal on the way: a thread may count those as zero. 112 moves the exponent's bias from 15 to 127.
  float value = magnitude < 0x400u ? static_cast<float>(magnitude) * 0x1p-24f
                                   : std::bit_cast<float>((magnitude << 13) + (112u << 23));
  if (magnitude >= 0x7c00u) value = std::bit_cast<float>(0x7f800000u | (magnitude << 13));
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

// Conversions from f32 round to nearest, ties to even; NaN stays NaN.
template <class T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

template <>
inline bfloat16 from_float<bfloat16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline float16 from_float<float16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x47800000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves the f16 subnormal, correctly rounded, in the low mantissa bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
}

inline float load_float(const void* data, DType type, std::int64_t i) {
  switch (type) {
    case DType::f32:
      return static_cast<const float*>(data)[i];
    case DType::f16:
      return to_float(static_cast<const float16*>(data)[i]);
    default:
      return to_float(static_cast<const bfloat16*>(data)[i]);
  }
}

inline void store_float(void* data, DType type, std::int64_t i, float x) {
  switch (type) {
    case DType::f32:
      static_cast<float*>(data)[i] = x;
      break;
    case DType::f16:
      static_cast<float16*>(data)[i] = from_float<float16>(x);
      break;
    default:
      static_cast<bfloat16*>(data)[i] = from_float<bfloat16>(x);
  }
}

}  // namespace minference::base
