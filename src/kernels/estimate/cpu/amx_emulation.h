#pragma once

#include "kernels/estimate/cpu/steps.h"

namespace minference::kernels::estimate {

// The AMX steps over cpu::EmulatedTiles, for tests on machines without AMX. They need AVX512_BF16.
const Steps& emulated_amx_steps();

}  // namespace minference::kernels::estimate
