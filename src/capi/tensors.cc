#include "capi/tensors.h"

#include <cmath>

#include "capi/status.h"
#include "sparse/rules.h"

namespace minference::capi {
namespace {

std::string at(const std::string& name, const char* field, int i) {
  return name + "." + field + "[" + std::to_string(i) + "]";
}

std::int64_t element_size(std::int32_t dtype) {
  switch (dtype) {
    case MINFERENCE_F32:
    case MINFERENCE_I32:
      return 4;
    case MINFERENCE_I64:
      return 8;
    default:
      return 2;
  }
}

bool is_empty(const minference_tensor& tensor) {
  for (std::int64_t size : tensor.shape)
    if (size == 0) return true;
  return false;
}

void check_shape(const minference_tensor& tensor, const std::string& name,
                 const std::array<std::int64_t, 4>& expected) {
  for (int i = 0; i < 4; ++i) {
    const std::int64_t size = tensor.shape[i];
    base::require(size >= 0, at(name, "shape", i), "must be >= 0", size);
    if (expected[i] != kAnySize)
      base::require(size == expected[i], at(name, "shape", i), "must be " + std::to_string(expected[i]),
                    size);
  }
}

// The last element's offset must fit the address space; 2^62 bytes is beyond any of today's.
void check_strides(const minference_tensor& tensor, const std::string& name, bool written) {
  const std::int64_t limit = (std::int64_t{1} << 62) / element_size(tensor.dtype);
  std::int64_t extent = 1;
  for (int i = 3; i >= 0; --i) {
    const std::int64_t size = tensor.shape[i], stride = tensor.stride[i];
    if (size <= 1) continue;
    if (i == 3)
      base::require(stride == 1, at(name, "stride", i), "must be 1 (the last dimension is contiguous)",
                    stride);
    base::require(stride >= 0, at(name, "stride", i), "must be >= 0", stride);
    if (written && i < 3)
      base::require(stride >= tensor.shape[3], at(name, "stride", i),
                    "must be >= shape[3]: rows must not overlap", stride);
    base::require(stride <= (limit - extent) / (size - 1), at(name, "stride", i),
                  "must keep every element below 2^62 bytes from the first", stride);
    extent += stride * (size - 1);
  }
}

}  // namespace

base::DType checked_float_dtype(std::int32_t dtype, const std::string& name) {
  base::require(dtype == MINFERENCE_F32 || dtype == MINFERENCE_F16 || dtype == MINFERENCE_BF16, name,
                "must be MINFERENCE_F32 (1), MINFERENCE_F16 (2) or MINFERENCE_BF16 (3)", dtype);
  return static_cast<base::DType>(dtype);
}

void check_head_dim(std::int64_t head_dim, const std::string& name) {
  base::require(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0, name,
                "must be a multiple of 8 from 8 to 256 (head_dim)", head_dim, base::ErrorCode::unsupported);
}

void check_length(std::int64_t length, const std::string& name) {
  base::require(length >= 0, name, "must be >= 0", length);
  base::require(length <= sparse::kMaxLength, name, "must be at most 2^31 - 128", length,
                base::ErrorCode::unsupported);
}

void check_dtype(const minference_tensor& tensor, const std::string& name, std::int32_t dtype) {
  base::require(tensor.dtype == dtype, name + ".dtype", "must be " + std::to_string(dtype), tensor.dtype);
}

void check_tensor(const minference_tensor& tensor, const std::string& name, const Expected& expected) {
  base::require(tensor.dtype >= MINFERENCE_F32 && tensor.dtype <= MINFERENCE_I64, name + ".dtype",
                "must be a minference_dtype (1 to 5)", tensor.dtype);
  base::require(tensor.device == static_cast<std::int32_t>(expected.memory), name + ".device",
                expected.memory == Memory::host ? "must be 0 (host memory)" : "must be 1 (CUDA memory)",
                tensor.device, base::ErrorCode::unsupported);
  check_shape(tensor, name, expected.shape);
  if (is_empty(tensor)) return;
  if (!tensor.data) base::refuse(name + ".data", "must not be NULL", "NULL");
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
  base::require(address % static_cast<std::uintptr_t>(element_size(tensor.dtype)) == 0, name + ".data",
                "must be aligned to its element size", tensor.data);
  check_strides(tensor, name, expected.written);
}

LayerTensors check_layer(const minference_tensor& query, const minference_tensor& key,
                         const minference_tensor* value, const minference_tensor* out,
                         const minference_tensor* lse, Memory memory) {
  LayerTensors layer{.memory = memory, .query = &query, .key = &key};
  layer.dtype = checked_float_dtype(query.dtype, "query.dtype");
  check_tensor(query, "query", {.memory = memory});
  layer.batch = query.shape[0];
  layer.num_query_heads = query.shape[1];
  layer.q_len = query.shape[2];
  layer.head_dim = query.shape[3];
  check_head_dim(layer.head_dim, "query.shape[3]");

  check_dtype(key, "key", query.dtype);
  check_tensor(key, "key", {.memory = memory, .shape = {layer.batch, kAnySize, kAnySize, layer.head_dim}});
  layer.num_kv_heads = key.shape[1];
  layer.kv_len = key.shape[2];
  base::require(layer.num_query_heads >= 1, "query.shape[1]", "must be >= 1 (heads)", layer.num_query_heads);
  base::require(layer.num_kv_heads >= 1 && layer.num_query_heads % layer.num_kv_heads == 0, "key.shape[1]",
                "must divide query.shape[1] = " + std::to_string(layer.num_query_heads), layer.num_kv_heads);
  check_length(layer.kv_len, "key.shape[2]");
  check_length(layer.q_len, "query.shape[2]");

  if (value) {
    check_dtype(*value, "value", query.dtype);
    check_tensor(
        *value, "value",
        {.memory = memory, .shape = {layer.batch, layer.num_kv_heads, layer.kv_len, layer.head_dim}});
    layer.value = value;
  }
  if (out) {
    check_dtype(*out, "out", query.dtype);
    check_tensor(*out, "out",
                 {.memory = memory,
                  .shape = {layer.batch, layer.num_query_heads, layer.q_len, layer.head_dim},
                  .written = true});
    layer.out = out;
  }
  if (lse && lse->data) {
    check_dtype(*lse, "lse", MINFERENCE_F32);
    check_tensor(
        *lse, "lse",
        {.memory = memory, .shape = {layer.batch, layer.num_query_heads, layer.q_len, 1}, .written = true});
    layer.lse = lse;
  }
  return layer;
}

float checked_softmax_scale(float softmax_scale, std::int64_t head_dim) {
  base::require(std::isfinite(softmax_scale), "softmax_scale", "must be finite", softmax_scale);
  return softmax_scale == 0.0f ? 1.0f / std::sqrt(static_cast<float>(head_dim)) : softmax_scale;
}

namespace {

template <class Data>
base::HeadsView<Data> heads_view(const minference_tensor& tensor, std::int64_t batch, std::int64_t begin,
                                 std::int64_t rows) {
  auto* data = static_cast<char*>(tensor.data);
  // An empty tensor may have no data, and arithmetic on it is undefined.
  if (data) data += (batch * tensor.stride[0] + begin * tensor.stride[2]) * element_size(tensor.dtype);
  return {data,
          static_cast<base::DType>(tensor.dtype),
          tensor.shape[1],
          rows,
          tensor.shape[3],
          tensor.stride[1],
          tensor.stride[2]};
}

}  // namespace

base::InputHeads input_heads(const minference_tensor& tensor, std::int64_t batch, std::int64_t begin,
                             std::int64_t rows) {
  return heads_view<const void>(tensor, batch, begin, rows);
}

base::OutputHeads output_heads(const minference_tensor& tensor, std::int64_t batch, std::int64_t begin,
                               std::int64_t rows) {
  return heads_view<void>(tensor, batch, begin, rows);
}

base::RowsView row_values(const minference_tensor* tensor, std::int64_t batch, std::int64_t begin) {
  if (!tensor) return {};
  return {static_cast<float*>(tensor->data) + batch * tensor->stride[0] + begin * tensor->stride[2],
          tensor->stride[1], tensor->stride[2]};
}

}  // namespace minference::capi
