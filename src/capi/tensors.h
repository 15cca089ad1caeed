#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/tensor.h"
#include "minference/minference.h"

// Checks of the C ABI's tensors. Every function throws Error naming the tensor ("query"), the rule and the
// value.
namespace minference::capi {

inline constexpr std::int64_t kAnySize = -1;

base::DType checked_float_dtype(std::int32_t dtype, const std::string& name);

// head_dim: a multiple of 8 from 8 to 256.
void check_head_dim(std::int64_t head_dim, const std::string& name);

// Rows or keys of a call: from 0 to sparse::kMaxLength.
void check_length(std::int64_t length, const std::string& name);

// Values are those of minference_tensor::device.
enum class Memory : std::int32_t { host = 0, cuda = 1 };

// Data, device, shape (kAnySize matches any), strides and address range of a tensor of one of the dtypes.
// `written`: distinct indices must reach distinct elements as far as single strides tell.
struct Expected {
  Memory memory = Memory::host;
  std::array<std::int64_t, 4> shape = {kAnySize, kAnySize, kAnySize, kAnySize};
  bool written = false;
};
void check_tensor(const minference_tensor& tensor, const std::string& name, const Expected& expected);
void check_dtype(const minference_tensor& tensor, const std::string& name, std::int32_t dtype);

// Query, key and (when not NULL) value, out and lse of one layer, checked against one another.
struct LayerTensors {
  Memory memory = Memory::host;
  const minference_tensor* query;
  const minference_tensor* key;
  const minference_tensor* value = nullptr;
  const minference_tensor* out = nullptr;
  const minference_tensor* lse = nullptr;
  base::DType dtype = base::DType::f32;
  std::int64_t batch = 0, num_query_heads = 0, num_kv_heads = 0, q_len = 0, kv_len = 0, head_dim = 0;
};
LayerTensors check_layer(const minference_tensor& query, const minference_tensor& key,
                         const minference_tensor* value, const minference_tensor* out,
                         const minference_tensor* lse, Memory memory = Memory::host);

// 0 stands for 1 / sqrt(head_dim).
float checked_softmax_scale(float softmax_scale, std::int64_t head_dim);

// Rows [begin, begin + rows) of batch entry `batch` of a checked [B, H, length, D] tensor.
base::InputHeads input_heads(const minference_tensor& tensor, std::int64_t batch, std::int64_t begin,
                             std::int64_t rows);
base::OutputHeads output_heads(const minference_tensor& tensor, std::int64_t batch, std::int64_t begin,
                               std::int64_t rows);
base::RowsView row_values(const minference_tensor* tensor, std::int64_t batch, std::int64_t begin);

}  // namespace minference::capi
