#include "kernels/attention/cpu/amx_emulation.h"

#include "cpu/amx_emulation.h"
#include "kernels/attention/cpu/amx_pipeline.h"

namespace minference::kernels::amx {

const Stages kEmulatedStages = make_stages<cpu::EmulatedTiles>();

}  // namespace minference::kernels::amx
