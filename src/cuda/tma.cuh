#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/barrier.cuh"

// The tensor copy engine of Hopper (PTX ISA, "cp.async.bulk.tensor"): boxes of [heads, rows, dim] tensors.
// Elements of a box that lie outside the tensor read as zero and are not written.
namespace minference::cuda {

// Copies the box at (dim, row, head) to shared memory; its bytes count towards `barrier`.
__device__ __forceinline__ void tma_load(void* shared, const CUtensorMap& map, Barrier& barrier, int dim,
                                         int row, int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(dim), "r"(row), "r"(head)
      : "memory");
}

// Copies `bytes` (a multiple of 16, as are both addresses) to shared memory; they count towards `barrier`.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, std::uint32_t bytes,
                                          Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}

// Copies shared memory to the box at (dim, row, head), as part of this thread's open group of stores.
__device__ __forceinline__ void tma_store(const CUtensorMap& map, const void* shared, int dim, int row,
                                          int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
      "r"(shared_address(shared)), "r"(dim), "r"(row), "r"(head)
      : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Returns when the shared memory of this thread's committed stores may be overwritten.
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Returns when this thread's committed stores are complete.
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace minference::cuda
