#pragma once

// Marks a constexpr rule that CUDA kernels compile too, so that every rule exists once.
#ifdef __CUDACC__
#define MINFERENCE_HD __host__ __device__
#else
#define MINFERENCE_HD
#endif

// Before a loop whose arrays must become registers on the device.
#ifdef __CUDA_ARCH__
#define MINFERENCE_UNROLL _Pragma("unroll")
#else
#define MINFERENCE_UNROLL
#endif
