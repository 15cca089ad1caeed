#include <string>

#include "base/error.h"
#include "capi/status.h"
#include "kernels/attention/cuda/attention_cuda.h"
#include "minference/minference_cuda.h"

namespace {

namespace base = minference::base;
namespace kernels = minference::kernels::cuda;

template <class View>
View heads_view(const minference_tensor& tensor, const char* name) {
  base::require(tensor.data != nullptr, std::string(name) + ".data", "must not be null", "null");
  base::require(tensor.shape[0] == 1, std::string(name) + ".shape[0]", "must be 1", tensor.shape[0]);
  base::require(tensor.stride[3] == 1, std::string(name) + ".stride[3]", "must be 1", tensor.stride[3]);
  base::require(tensor.dtype == MINFERENCE_F16 || tensor.dtype == MINFERENCE_BF16,
                std::string(name) + ".dtype", "must be float16 or bfloat16", tensor.dtype);
  View view;
  view.data = tensor.data;
  view.dtype = static_cast<base::DType>(tensor.dtype);
  view.heads = tensor.shape[1];
  view.rows = tensor.shape[2];
  view.dim = tensor.shape[3];
  view.head_stride = tensor.stride[1];
  view.row_stride = tensor.stride[2];
  return view;
}

base::RowsView lse_view(const minference_tensor& lse, const minference_tensor& query) {
  if (lse.data == nullptr) return {};
  base::require(lse.dtype == MINFERENCE_F32, "lse.dtype", "must be float32", lse.dtype);
  const std::int64_t shape[4] = {1, query.shape[1], query.shape[2], 1};
  for (int i = 0; i < 4; ++i) {
    base::require(lse.shape[i] == shape[i], "lse.shape[" + std::to_string(i) + "]",
                  "must be " + std::to_string(shape[i]), lse.shape[i]);
  }
  return {static_cast<float*>(lse.data), lse.stride[1], lse.stride[2]};
}

kernels::DeviceAttentionCall device_call(const minference_cuda_attention_call* call) {
  base::require(call != nullptr, "call", "must not be null", "null");
  base::require(call->struct_size == sizeof(minference_cuda_attention_call), "call.struct_size",
                "must be sizeof(minference_cuda_attention_call)", call->struct_size);
  static_assert(sizeof(kernels::DeviceHead) == sizeof(minference_cuda_head));
  kernels::DeviceAttentionCall device;
  device.query = heads_view<base::InputHeads>(call->query, "query");
  device.key = heads_view<base::InputHeads>(call->key, "key");
  device.value = heads_view<base::InputHeads>(call->value, "value");
  device.out = heads_view<base::OutputHeads>(call->out, "out");
  device.lse = lse_view(call->lse, call->query);
  device.softmax_scale = call->softmax_scale;
  device.index = {.heads = reinterpret_cast<const kernels::DeviceHead*>(call->heads),
                  .tiles = call->tiles,
                  .columns = call->columns,
                  .tile_capacity = call->tile_capacity,
                  .column_capacity = call->column_capacity,
                  .row_offsets = call->row_offsets,
                  .key_blocks = call->key_blocks,
                  .block_capacity = call->block_capacity,
                  .last_dense_rows = call->last_dense_rows};
  base::require(call->non_causal == 0 || call->non_causal == 1, "non_causal", "must be 0 or 1",
                call->non_causal);
  device.causal = call->non_causal == 0;
  device.kernel = static_cast<kernels::AttentionKernel>(call->kernel);
  return device;
}

}  // namespace

extern "C" {

minference_status minference_cuda_attention_workspace(const minference_cuda_attention_call* call,
                                                      size_t* bytes) {
  return minference::capi::guarded([&] {
    base::require(bytes != nullptr, "bytes", "must not be null", "null");
    *bytes = kernels::attention_workspace_bytes(device_call(call));
  });
}

minference_status minference_cuda_attention(const minference_cuda_attention_call* call) {
  return minference::capi::guarded([&] {
    const kernels::DeviceAttentionCall device = device_call(call);
    kernels::attention(device, call->workspace, call->workspace_bytes,
                       static_cast<kernels::Stream>(call->stream));
  });
}

const char* minference_cuda_last_error(void) {
  return minference::capi::last_error();
}

}  // extern "C"
