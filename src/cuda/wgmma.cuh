#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

// Matrix products of a warpgroup (PTX ISA, "wgmma.mma_async"), f32 accumulators, 16-bit operands, shapes m64
// nN k16.
//
// Thread t of the warpgroup holds in d[4 j + e] row 16 (t / 32) + (t % 32) / 4 + 8 (e / 2) and column
// 8 j + 2 (t % 4) + e % 2. ptxas runs these instructions one at a time (and the build fails,
// cmake/nvcc_checked.sh) when it cannot prove that nothing touches their registers while they run: keep a
// fence before each group, and whole groups within one branch.
namespace minference::cuda {

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Returns when at most `Groups` committed groups still run.
template <int Groups>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
}

// Keeps uses of accumulators behind the wait that precedes this.
template <int Count>
__device__ __forceinline__ void wgmma_pin(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Shared-memory operands are described by 64 bits (PTX ISA, "Shared memory matrix layout"). All of ours have
// the 128-byte swizzle: rows of 64 elements, 8 rows every 1024 bytes. Only the low word varies: the address,
// and for an operand wider than 64 elements along its rows the distance between its panels of 64.
__device__ __forceinline__ std::uint32_t wgmma_operand(std::uint32_t shared_address,
                                                       std::uint32_t panel_bytes = 16) {
  return ((shared_address & 0x3ffff) >> 4) | ((panel_bytes >> 4) << 16);
}

// The low word's step for `bytes` further in shared memory.
__device__ constexpr std::uint32_t wgmma_operand_step(std::uint32_t bytes) {
  return bytes >> 4;
}

__device__ __forceinline__ std::uint64_t wgmma_descriptor(std::uint32_t operand) {
  constexpr std::uint64_t kSwizzle128 = 1u << 30, kEightRows = 1024 >> 4;
  return (kSwizzle128 | kEightRows) << 32 | operand;
}

// d[64, N] (+)= a[64, 16] * b[N, 16]^T; a and b in shared memory with their rows along k.
template <class T, int N>
__device__ __forceinline__ void wgmma_shared(float* d, std::uint64_t a, std::uint64_t b, int accumulate);

// d[64, N] (+)= a[64, 16] * b[N, 16]^T; a in registers, packed pairs of the accumulators' layout; b in shared
// memory with its rows along k.
template <class T, int N>
__device__ __forceinline__ void wgmma_registers_rows_along_k(float* d, const std::uint32_t* a,
                                                             std::uint64_t b, int accumulate);

// d[64, N] (+)= a[64, 16] * b[16, N]; a in registers, packed pairs of the accumulators' layout; b in shared
// memory with its rows along N.
template <class T, int N>
__device__ __forceinline__ void wgmma_registers(float* d, const std::uint32_t* a, std::uint64_t b,
                                                int accumulate);

#define MINFERENCE_D32_NAMES                                                \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define MINFERENCE_D48_NAMES                                                         \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "          \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}"
#define MINFERENCE_D64_NAMES                                                         \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "          \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define MINFERENCE_D128_NAMES                                                                    \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                      \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
#define MINFERENCE_D8(i)                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define MINFERENCE_D32(i) MINFERENCE_D8(i), MINFERENCE_D8(i + 8), MINFERENCE_D8(i + 16), MINFERENCE_D8(i + 24)
#define MINFERENCE_D32_OPERANDS MINFERENCE_D32(0)
#define MINFERENCE_D48_OPERANDS MINFERENCE_D32(0), MINFERENCE_D8(32), MINFERENCE_D8(40)
#define MINFERENCE_D64_OPERANDS MINFERENCE_D32(0), MINFERENCE_D32(32)
#define MINFERENCE_D128_OPERANDS MINFERENCE_D64_OPERANDS, MINFERENCE_D32(64), MINFERENCE_D32(96)

#define MINFERENCE_WGMMA_SHARED(T, Type, N, D, A, B, Accumulate)                                             \
  template <>                                                                                                \
  __device__ __forceinline__ void wgmma_shared<T, N>(float* d, std::uint64_t a, std::uint64_t b,             \
                                                     int accumulate) {                                       \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " Accumulate                                              \
                 ", 0;\n"                                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." Type "." Type " " MINFERENCE_D##D##_NAMES \
                 ", " A ", " B ", p, 1, 1, 0, 0;\n}\n"                                                       \
                 : MINFERENCE_D##D##_OPERANDS                                                                \
                 : "l"(a), "l"(b), "r"(accumulate));                                                         \
  }

#define MINFERENCE_WGMMA_REGISTERS(Name, Transposed, T, Type, N, D, A, B, Accumulate)                        \
  template <>                                                                                                \
  __device__ __forceinline__ void Name<T, N>(float* d, const std::uint32_t* a, std::uint64_t b,              \
                                             int accumulate) {                                               \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " Accumulate                                              \
                 ", 0;\n"                                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." Type "." Type " " MINFERENCE_D##D##_NAMES \
                 ", " A ", " B ", p, 1, 1, " #Transposed ";\n}\n"                                            \
                 : MINFERENCE_D##D##_OPERANDS                                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                     \
  }

MINFERENCE_WGMMA_SHARED(__nv_bfloat16, "bf16", 64, 32, "%32", "%33", "%34")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __nv_bfloat16, "bf16", 64, 32, "{%32, %33, %34, %35}", "%36",
                           "%37")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers_rows_along_k, 0, __nv_bfloat16, "bf16", 64, 32,
                           "{%32, %33, %34, %35}", "%36", "%37")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __nv_bfloat16, "bf16", 96, 48, "{%48, %49, %50, %51}", "%52",
                           "%53")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __nv_bfloat16, "bf16", 128, 64, "{%64, %65, %66, %67}", "%68",
                           "%69")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers_rows_along_k, 0, __nv_bfloat16, "bf16", 128, 64,
                           "{%64, %65, %66, %67}", "%68", "%69")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __nv_bfloat16, "bf16", 256, 128, "{%128, %129, %130, %131}",
                           "%132", "%133")
MINFERENCE_WGMMA_SHARED(__half, "f16", 64, 32, "%32", "%33", "%34")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __half, "f16", 64, 32, "{%32, %33, %34, %35}", "%36", "%37")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers_rows_along_k, 0, __half, "f16", 64, 32, "{%32, %33, %34, %35}",
                           "%36", "%37")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __half, "f16", 96, 48, "{%48, %49, %50, %51}", "%52", "%53")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __half, "f16", 128, 64, "{%64, %65, %66, %67}", "%68", "%69")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers_rows_along_k, 0, __half, "f16", 128, 64, "{%64, %65, %66, %67}",
                           "%68", "%69")
MINFERENCE_WGMMA_REGISTERS(wgmma_registers, 1, __half, "f16", 256, 128, "{%128, %129, %130, %131}", "%132",
                           "%133")

#undef MINFERENCE_WGMMA_SHARED
#undef MINFERENCE_WGMMA_REGISTERS
#undef MINFERENCE_D32_OPERANDS
#undef MINFERENCE_D48_OPERANDS
#undef MINFERENCE_D128_OPERANDS
#undef MINFERENCE_D64_OPERANDS
#undef MINFERENCE_D32
#undef MINFERENCE_D8
#undef MINFERENCE_D32_NAMES
#undef MINFERENCE_D48_NAMES
#undef MINFERENCE_D128_NAMES
#undef MINFERENCE_D64_NAMES

// Moves registers between the warpgroups of a CTA: the whole warpgroup gives up, or takes, down or up to
// `Count` a thread.
template <int Count>
__device__ __forceinline__ void registers_shrink_to() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

template <int Count>
__device__ __forceinline__ void registers_grow_to() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

}  // namespace minference::cuda
