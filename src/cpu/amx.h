#pragma once

#include <cstdint>

// Words for the AMX tile registers (Intel SDM volume 1, chapter 18). Every tile is used at its full size, 16
// rows of 64 bytes. Only code that dispatch reaches after base::available_isa() found AMX may use them.
//
// They are inline assembly: the compiler's intrinsics do not tell it which memory a tile instruction reads
// and writes.
namespace minference::cpu {

// `stride` is the distance of a tile's rows in memory, in bytes.
struct AmxTiles {
  // Gives the calling thread zeroed tiles.
  static void configure() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = 64;
      configuration.rows[tile] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
  }

  // Takes them back, so that the operating system need not save their 8 KiB when it switches threads.
  static void release() { __asm__ volatile("tilerelease" ::: "memory"); }

  template <int tile>
  [[gnu::always_inline]] static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile) : "memory");
  }

  template <int tile>
  [[gnu::always_inline]] static void load(const void* data, std::int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(data), "r"(stride) : "memory");
  }

  // For data that streams through: the hint keeps it from evicting what should stay in L1.
  template <int tile>
  [[gnu::always_inline]] static void load_streamed(const void* data, std::int64_t stride) {
    __asm__ volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(data), "r"(stride) : "memory");
  }

  template <int tile>
  [[gnu::always_inline]] static void store(void* data, std::int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(data), "r"(stride) : "memory");
  }

  // c[i][j] += sum over r of a[i][2r] * b[r][2j] + a[i][2r + 1] * b[r][2j + 1]: c is 16 x 16 f32; the rows of
  // a are 32 bf16, those of b 16 pairs of bf16. Denormals count as zero.
  template <int c, int a, int b>
  [[gnu::always_inline]] static void multiply_add() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b) : "memory");
  }
};

}  // namespace minference::cpu
