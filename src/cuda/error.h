#pragma once

#include <cuda_runtime.h>

#include <string>

#include "base/error.h"

namespace minference::cuda {

// Throws Error naming the step that failed, the runtime's name for the error and its message.
inline void check(cudaError_t status, const char* step) {
  if (status == cudaSuccess) return;
  const auto code =
      status == cudaErrorMemoryAllocation ? base::ErrorCode::out_of_memory : base::ErrorCode::internal;
  throw base::Error(code, std::string(step) + " must succeed, got " + cudaGetErrorName(status) + ": " +
                              cudaGetErrorString(status));
}

}  // namespace minference::cuda
