#include "convert.h"

#include "base/dtype.h"

// The compiler vectorises these loops for each of these machines and asks once which one it runs on.
#define FOR_EACH_X86_LEVEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))

namespace minference::ggml {
namespace {

using base::bfloat16;
using base::float16;

FOR_EACH_X86_LEVEL void to_f16(const float* from, float16* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = base::from_float<float16>(from[i]);
}
FOR_EACH_X86_LEVEL void to_bf16(const float* from, bfloat16* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = base::from_float<bfloat16>(from[i]);
}
FOR_EACH_X86_LEVEL void from_f16(const float16* from, float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = base::to_float(from[i]);
}
FOR_EACH_X86_LEVEL void from_bf16(const bfloat16* from, float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = base::to_float(from[i]);
}

}  // namespace

void from_f32(const float* from, Type type, std::uint16_t* to, std::int64_t count) {
  if (type == kF16) {
    to_f16(from, reinterpret_cast<float16*>(to), count);
  } else {
    to_bf16(from, reinterpret_cast<bfloat16*>(to), count);
  }
}

void to_f32(const std::uint16_t* from, Type type, float* to, std::int64_t count) {
  if (type == kF16) {
    from_f16(reinterpret_cast<const float16*>(from), to, count);
  } else {
    from_bf16(reinterpret_cast<const bfloat16*>(from), to, count);
  }
}

}  // namespace minference::ggml
