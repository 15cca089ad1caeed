#include "cpu/amx.h"

#include "kernels/estimate/cpu/amx_words.h"

namespace minference::kernels::estimate {

const Steps& amx_steps() {
  static constexpr Steps steps = AmxLoop<cpu::AmxTiles>::steps();
  return steps;
}

}  // namespace minference::kernels::estimate
