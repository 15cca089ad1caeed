#pragma once

// Marks a constexpr rule that CUDA kernels compile too, so that every rule exists once.
#ifdef __CUDACC__
#define MINFERENCE_HD __host__ __device__
#else
#define MINFERENCE_HD
#endif
