#include "base/isa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/error.h"

namespace minference::base {
namespace {

constexpr std::array<const char*, 5> kNames = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

// Linux hands out the tile registers on request only (Documentation/arch/x86/xstate.rst).
bool amx_permitted() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
}

struct Cpuid {
  unsigned ecx, edx;
};
Cpuid cpuid(unsigned leaf) {
  unsigned ebx = 0, ecx = 0, edx = 0;
  __asm__ volatile("cpuid" : "+a"(leaf), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return {ecx, edx};
}

// Clang 14's __builtin_cpu_supports does not know F16C, GCC 12's does not know AMX.
bool cpu_has_f16c() {
  return cpuid(1).ecx >> 29 & 1;
}
bool cpu_has_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  return (~cpuid(7).edx & (kBf16 | kTile)) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c()))
    return Isa::portable;
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
    return Isa::avx2;
  if (!(__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"))) return Isa::avx512;
  return cpu_has_amx() && amx_permitted() ? Isa::amx : Isa::avx512bf16;
}

}  // namespace

const char* name_of(Isa isa) {
  return kNames[static_cast<std::size_t>(isa)];
}

std::optional<Isa> isa_named(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<Isa>(i);
  return std::nullopt;
}

Isa available_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa choose_isa(std::string_view name) {
  std::string wanted(name);
  if (wanted.empty())
    if (const char* forced = std::getenv("MINFERENCE_ISA")) wanted = forced;
  if (wanted.empty()) return available_isa();
  const auto isa = isa_named(wanted);
  if (!isa) refuse("isa", "must be one of portable, avx2, avx512, avx512bf16, amx", wanted);
  if (*isa > available_isa())
    refuse("isa", "is not available on this machine (best: " + std::string(name_of(available_isa())) + ")",
           wanted, ErrorCode::unsupported);
  return *isa;
}

}  // namespace minference::base
