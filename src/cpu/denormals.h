#pragma once

#include <xmmintrin.h>

namespace minference::cpu {

// While it lives, denormal f32 numbers are zero to the calling thread. Probabilities far below their row's
// largest are denormal, count for nothing, and cost Intel's cores some 150 cycles an instruction.
class DenormalsAreZero {
 public:
  DenormalsAreZero() { _mm_setcsr(saved_ | kFlushResults | kFlushOperands); }
  ~DenormalsAreZero() { _mm_setcsr(saved_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
  unsigned saved_ = _mm_getcsr();
};

}  // namespace minference::cpu
