#pragma once

#include "cuda/barrier.cuh"

// Copies from global to shared memory that a thread does not wait for (PTX ISA, "cp.async"; sm_80 and later).
namespace minference::cuda {

// 16 bytes; both addresses are multiples of 16. With `present` false writes zeros and reads nothing.
__device__ __forceinline__ void copy_async(std::uint32_t shared, const void* global, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(present ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when at most `Groups` of this thread's committed groups still run.
template <int Groups>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

}  // namespace minference::cuda
