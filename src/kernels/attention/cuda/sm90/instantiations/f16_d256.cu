#include "kernels/attention/cuda/sm90/launch.cuh"

template void minference::kernels::cuda::sm90::launch_attention_kernel<__half, 256>(
    const DeviceAttentionCall&, const Plan&, Stream);
