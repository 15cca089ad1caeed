#pragma once

#include <optional>
#include <string_view>

namespace minference::base {

// Instruction sets that kernels are written for, weakest first; each includes those before it.
//   avx2        AVX2, FMA, F16C
//   avx512      AVX-512 F, BW, DQ, VL
//   avx512bf16  and AVX512_BF16, AVX512_VBMI: Zen 4, Sapphire Rapids and later
//   amx         and AMX-TILE, AMX-BF16, with the kernel's permission to use the tile registers
enum class Isa { portable, avx2, avx512, avx512bf16, amx };

const char* name_of(Isa isa);
std::optional<Isa> isa_named(std::string_view name);

// The best instruction set this machine and its operating system offer.
Isa available_isa();

// `name`, or when empty the environment variable MINFERENCE_ISA, or when that is unset the best available
// one. Throws Error for an unknown name (invalid_argument) or one this machine lacks (unsupported).
Isa choose_isa(std::string_view name);

}  // namespace minference::base
