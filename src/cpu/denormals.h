#pragma once

namespace minference::cpu {

// While it lives, denormal f32 numbers are zero to the calling thread. Probabilities far below their row's
// largest are denormal, count for nothing, and cost Intel's cores some 150 cycles an instruction.
class DenormalsAreZero {
 public:
  DenormalsAreZero() { __builtin_ia32_ldmxcsr(saved_ | kFlushResults | kFlushOperands); }
  ~DenormalsAreZero() { __builtin_ia32_ldmxcsr(saved_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  // SSE's control register is part of every x86-64, and needs no header of an instruction set.
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
  unsigned saved_ = __builtin_ia32_stmxcsr();
};

}  // namespace minference::cpu
