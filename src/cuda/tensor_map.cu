#include "cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <string>

#include "cuda/error.h"

namespace minference::cuda {

namespace {

// The driver's function, found through the runtime so that the library does not link to libcuda.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000, cudaEnableDefault,
                                           &result),
          "looking up cuTensorMapEncodeTiled");
    base::require(result == cudaDriverEntryPointSuccess, "driver",
                  "must know cuTensorMapEncodeTiled (CUDA 12.0)", static_cast<int>(result),
                  base::ErrorCode::unsupported);
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(address);
  }();
  return function;
}

}  // namespace

CUtensorMap tensor_map(const base::InputHeads& tensor, int box_rows, const char* name) {
  constexpr cuuint32_t kBoxDim = 64;
  // Of a single row or head the stride is never taken, but must be one.
  const std::int64_t row_bytes = (tensor.rows == 1 ? tensor.dim : tensor.row_stride) * 2;
  const std::int64_t head_bytes = tensor.heads == 1 ? row_bytes : tensor.head_stride * 2;
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
  base::require(address % 16 == 0, std::string(name) + ".data", "must be aligned to 16 bytes", tensor.data);
  base::require(row_bytes % 16 == 0 && row_bytes > 0, std::string(name) + ".row_stride",
                "must be a positive multiple of 16 bytes", row_bytes);
  base::require(head_bytes % 16 == 0 && head_bytes > 0, std::string(name) + ".head_stride",
                "must be a positive multiple of 16 bytes", head_bytes);

  CUtensorMap map;
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(tensor.dim), static_cast<cuuint64_t>(tensor.rows),
                              static_cast<cuuint64_t>(tensor.heads)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row_bytes), static_cast<cuuint64_t>(head_bytes)};
  const cuuint32_t box[3] = {kBoxDim, static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  const CUresult result = encode_function()(
      &map,
      tensor.dtype == base::DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      3, const_cast<void*>(tensor.data), dims, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  base::require(result == CUDA_SUCCESS, std::string("tensor map of ") + name,
                "must be accepted by the driver", static_cast<int>(result), base::ErrorCode::internal);
  return map;
}

}  // namespace minference::cuda
