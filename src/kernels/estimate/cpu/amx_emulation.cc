#include "cpu/amx_emulation.h"

#include "kernels/estimate/cpu/amx_emulation.h"
#include "kernels/estimate/cpu/amx_words.h"

namespace minference::kernels::estimate {

const Steps& emulated_amx_steps() {
  static constexpr Steps steps = AmxLoop<cpu::EmulatedTiles>::steps();
  return steps;
}

}  // namespace minference::kernels::estimate
