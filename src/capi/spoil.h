#pragma once

// Ways of making one argument of a valid call wrong, each of which returns the name that the refusal must begin with.

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "minference/minference.h"

namespace minference::capi::testing {

using Random = std::mt19937_64;

inline std::int64_t pick(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

template <class T>
const T& pick(Random& random, const std::vector<T>& values) {
  return values[static_cast<std::size_t>(pick(random, 0, static_cast<std::int64_t>(values.size()) - 1))];
}

// A value outside [low, high].
inline std::int64_t outside(Random& random, std::int64_t low, std::int64_t high) {
  constexpr std::int64_t kFar = std::int64_t{1} << 62;
  if (pick(random, 0, 1)) return high + pick(random, 1, pick(random, 0, 1) ? 10 : kFar - high);
  return low - pick(random, 1, pick(random, 0, 1) ? 10 : kFar);
}

inline std::int32_t outside32(Random& random, std::int32_t low, std::int32_t high) {
  const bool above = pick(random, 0, 1) && high < INT32_MAX;
  return static_cast<std::int32_t>(above ? pick(random, std::int64_t{high} + 1, INT32_MAX)
                                         : pick(random, INT32_MIN, std::int64_t{low} - 1));
}

// `args` starts with struct_size.
template <class Struct>
std::string spoil_size(Random& random, Struct& args, const std::string& name = "args") {
  args.struct_size = static_cast<std::size_t>(outside(random, sizeof args, sizeof args));
  return name + ".struct_size";
}

// One field of a valid tensor. `fixed`: dimensions whose size the call prescribes; `written`: an output.
inline std::string spoil_tensor(Random& random, minference_tensor& tensor, const std::string& name,
                                const std::vector<int>& fixed, bool written = false) {
  const auto at = [&](const char* field, int i) {
    return name + "." + field + "[" + std::to_string(i) + "]";
  };
  switch (pick(random, 0, 5)) {
    case 0:
      tensor.dtype = outside32(random, 1, 5);
      return name + ".dtype";
    case 1:
      tensor.device = outside32(random, 0, 0);
      return name + ".device";
    case 2:
      tensor.data = nullptr;
      return name + ".data";
    case 3: {
      const int i = pick(random, fixed);
      tensor.shape[i] =
          pick(random, 0, 1) ? -pick(random, 1, INT64_MAX) : tensor.shape[i] + (pick(random, 1, 1000) | 1);
      return at("shape", i);
    }
    case 4:
      tensor.stride[3] = outside(random, 1, 1);
      return at("stride", 3);
    default: {
      std::vector<int> read = {1};  // strides of a lone batch entry or row never are
      if (tensor.shape[2] > 1) read.push_back(2);
      const int i = pick(random, read);
      tensor.stride[i] = pick(random, 0, 1) ? -pick(random, 1, INT64_MAX) : INT64_MAX - pick(random, 0, 1000);
      if (written && pick(random, 0, 1)) tensor.stride[i] = pick(random, 0, tensor.shape[3] - 1);
      return at("stride", i);
    }
  }
}

// One field of a valid pattern. The pattern itself must not say adaptive.
inline std::string spoil_head(Random& random, minference_head_pattern& head, const std::string& name) {
  switch (pick(random, 0, 3)) {
    case 0:
      head.pattern = outside32(random, MINFERENCE_DENSE, MINFERENCE_ADAPTIVE);
      return name + ".pattern";
    case 1: {
      const auto i = pick(random, 0, 1);
      head.size[i] = outside32(random, 0, INT32_MAX);
      return name + ".size[" + std::to_string(i) + "]";
    }
    case 2:
      head.last_dense_rows = outside32(random, 0, INT32_MAX);
      return name + ".last_dense_rows";
    default:
      head = {MINFERENCE_ADAPTIVE, {0, 0}, 0, outside32(random, 1, 1000000)};
      return name + ".share_ppm";
  }
}

inline std::string spoil_head(Random& random, std::vector<minference_head_pattern>& heads) {
  const auto i = static_cast<std::size_t>(pick(random, 0, static_cast<std::int64_t>(heads.size()) - 1));
  return spoil_head(random, heads[i], "heads[" + std::to_string(i) + "]");
}

// Sequences inside 64 rows and 64 keys of one batch entry.
inline std::string spoil_sequence(Random& random, std::vector<minference_sequence>& sequences) {
  const auto i = static_cast<std::size_t>(pick(random, 0, static_cast<std::int64_t>(sequences.size()) - 1));
  const std::string name = "sequences[" + std::to_string(i) + "].";
  auto& s = sequences[i];
  switch (pick(random, 0, 4)) {
    case 0:
      s.batch = outside(random, 0, 0);
      return name + "batch";
    case 1:
      s.q_begin = outside(random, 0, 64);
      return name + "q_begin";
    case 2:
      s.q_len = outside(random, 0, 64);
      return name + "q_len";
    case 3:
      s.kv_begin = outside(random, 0, 64);
      return name + "kv_begin";
    default:
      s.kv_len = outside(random, 0, 64);
      return name + "kv_len";
  }
}

}  // namespace minference::capi::testing
