#pragma once

#include <cstdint>

// Barriers between the warps of a CTA: mbarriers in shared memory (PTX ISA, "mbarrier") and named barriers.
namespace minference::cuda {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// An mbarrier: a phase completes when `arrivals` arrivals and every announced byte have come in.
struct Barrier {
  std::uint64_t state;

  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(arrivals));
  }

  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state)) : "memory");
  }

  __device__ __forceinline__ void arrive(int count) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)), "r"(count)
                 : "memory");
  }

  // Announces bytes that a copy will bring; does not arrive.
  __device__ __forceinline__ void expect_bytes(std::uint32_t bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)),
                 "r"(bytes)
                 : "memory");
  }

  __device__ __forceinline__ void arrive_expect_bytes(std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)),
                 "r"(bytes)
                 : "memory");
  }

  // Returns when the phase of this parity has completed. A fresh barrier counts as having completed parity 1.
  __device__ __forceinline__ void wait(std::uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra "
        "DONE;\n"
        "bra WAIT;\nDONE:\n}\n" ::"r"(shared_address(&state)),
        "r"(parity)
        : "memory");
  }
};

// Waits for two barriers at once, so that the time to ask the second hides behind that of the first.
__device__ __forceinline__ void wait_for_both(Barrier& first, std::uint32_t first_parity, Barrier& second,
                                              std::uint32_t second_parity) {
  asm volatile(
      "{\n.reg .pred first, second;\nWAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 first, [%0], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 second, [%2], %3;\n"
      "and.pred first, first, second;\n@first bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(
          shared_address(&first.state)),
      "r"(first_parity), "r"(shared_address(&second.state)), "r"(second_parity)
      : "memory");
}

// Makes barrier initialisation visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Orders this thread's ordinary shared-memory accesses before later ones of the copy engine and the tensor
// cores.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Named barriers: `Threads` threads in all, of which some arrive and go on, and the others wait.
template <int Threads>
__device__ __forceinline__ void named_barrier_sync(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

template <int Threads>
__device__ __forceinline__ void named_barrier_arrive(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

}  // namespace minference::cuda
