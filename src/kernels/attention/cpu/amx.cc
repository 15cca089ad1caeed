#include "cpu/amx.h"

#include "kernels/attention/cpu/amx_pipeline.h"
#include "kernels/attention/cpu/kernels.h"

namespace minference::kernels::amx {

const Stages kStages = make_stages<cpu::AmxTiles>();

}  // namespace minference::kernels::amx
