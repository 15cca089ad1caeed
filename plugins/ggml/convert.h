#pragma once

#include <cstdint>

#include "abi.h"

namespace minference::ggml {

// `count` numbers between f32 and a type of 16 bits, rounded to nearest, ties to even.
void from_f32(const float* from, Type type, std::uint16_t* to, std::int64_t count);
void to_f32(const std::uint16_t* from, Type type, float* to, std::int64_t count);

}  // namespace minference::ggml
