#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace minference::cpu {

// cpu::AmxTiles in plain C++, for tests: what is written over tiles can be proved on machines without AMX.
// Results are those of the processor, bit for bit (Intel SDM volume 2, TDPBF16PS).
class EmulatedTiles {
 public:
  static void configure() { std::memset(tiles_, 0, sizeof tiles_); }
  // Tiles that are used after release hold NaN.
  static void release() { std::memset(tiles_, 0xff, sizeof tiles_); }

  template <int tile>
  static void zero() {
    std::memset(tiles_[tile], 0, sizeof tiles_[tile]);
  }

  template <int tile>
  static void load(const void* data, std::int64_t stride) {
    for (int i = 0; i < kRows; ++i) {
      std::memcpy(tiles_[tile] + i * kRowBytes, static_cast<const std::byte*>(data) + i * stride, kRowBytes);
    }
  }

  template <int tile>
  static void load_streamed(const void* data, std::int64_t stride) {
    load<tile>(data, stride);
  }

  template <int tile>
  static void store(void* data, std::int64_t stride) {
    for (int i = 0; i < kRows; ++i) {
      std::memcpy(static_cast<std::byte*>(data) + i * stride, tiles_[tile] + i * kRowBytes, kRowBytes);
    }
  }

  template <int c, int a, int b>
  static void multiply_add() {
    float sums[kRows][16];
    base::bfloat16 left[kRows][32], right[16][32];
    std::memcpy(sums, tiles_[c], sizeof sums);
    std::memcpy(left, tiles_[a], sizeof left);
    std::memcpy(right, tiles_[b], sizeof right);
    for (int i = 0; i < kRows; ++i) {
      float even[16] = {}, odd[16] = {};
      for (int r = 0; r < 16; ++r) {
        const float x = flushed(base::to_float(left[i][2 * r])),
                    y = flushed(base::to_float(left[i][2 * r + 1]));
        for (int j = 0; j < 16; ++j) {
          even[j] = flushed(std::fma(x, flushed(base::to_float(right[r][2 * j])), even[j]));
          odd[j] = flushed(std::fma(y, flushed(base::to_float(right[r][2 * j + 1])), odd[j]));
        }
      }
      for (int j = 0; j < 16; ++j) sums[i][j] = flushed(flushed(sums[i][j]) + flushed(even[j] + odd[j]));
    }
    std::memcpy(tiles_[c], sums, sizeof sums);
  }

 private:
  static constexpr int kRows = 16, kRowBytes = 64;

  static float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

  static inline thread_local std::byte tiles_[8][kRows * kRowBytes];
};

}  // namespace minference::cpu
