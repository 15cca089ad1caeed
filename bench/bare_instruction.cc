#include "bare_instruction.h"

#include <bit>
#include <cstdint>
#include <random>

namespace minference::bench {
namespace {

using F32x8 [[gnu::vector_size(32)]] = float;
using F32x16 [[gnu::vector_size(64)]] = float;

[[gnu::target("avx512f,avx512bf16")]] void vdpbf16ps(long iterations) {
  F32x16 acc[24] = {}, x = {};
  for (long i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (F32x16& a : acc) __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(a) : "v"(x));
  }
}

[[gnu::target("avx512f")]] void vfmadd_zmm(long iterations) {
  F32x16 acc[24] = {}, x = {};
  for (long i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (F32x16& a : acc) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(a) : "v"(x));
  }
}

[[gnu::target("avx2,fma")]] void vfmadd_ymm(long iterations) {
  F32x8 acc[12] = {}, x = {};
  for (long i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (F32x8& a : acc) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+x"(a) : "x"(x));
  }
}

// Intel SDM, LDTILECFG: palette 1, eight tiles of 16 rows of 64 bytes.
struct TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// On data that changes from bit to bit, as attention's does: zeros would spare the multipliers the power that
// limits the clock.
void tdpbf16ps(long iterations) {
  const TileConfig config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uint16_t operands[4][16][32];
  for (auto& tile : operands) {
    for (auto& row : tile) {
      for (std::uint16_t& x : row)
        x = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(normal(random)) >> 16);
    }
  }
  __asm__ volatile(
      "tileloadd (%0,%1,1), %%tmm4\n\t"
      "tileloadd 1024(%0,%1,1), %%tmm5\n\t"
      "tileloadd 2048(%0,%1,1), %%tmm6\n\t"
      "tileloadd 3072(%0,%1,1), %%tmm7" ::"r"(operands),
      "r"(64l)
      : "memory");
  for (long i = 0; i < iterations; ++i) {
    __asm__ volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\t"
        "tdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\t"
        "tdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  __asm__ volatile("tilerelease");
}

constexpr BareInstruction kInstructions[] = {
    {"amx", 4 * 2.0 * 16 * 16 * 32, tdpbf16ps},
    {"avx512bf16", 24 * 2.0 * 32, vdpbf16ps},
    {"avx512", 24 * 2.0 * 16, vfmadd_zmm},
    {"avx2", 12 * 2.0 * 8, vfmadd_ymm},
};

}  // namespace

const BareInstruction* bare_instruction_of(std::string_view kernel) {
  for (const BareInstruction& instruction : kInstructions) {
    if (kernel == instruction.name) return &instruction;
  }
  return nullptr;
}

}  // namespace minference::bench
