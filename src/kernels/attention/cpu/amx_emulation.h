#pragma once

#include "kernels/attention/cpu/amx_layout.h"

// The AMX kernel's stages over cpu::EmulatedTiles, for tests on machines without AMX. They need AVX512_BF16.
namespace minference::kernels::amx {

extern const Stages kEmulatedStages;

}  // namespace minference::kernels::amx
