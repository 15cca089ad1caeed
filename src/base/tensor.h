#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/host_device.h"

namespace minference::base {

// A borrowed [heads, rows, dim] tensor of one sequence. Strides are in elements; dim is contiguous.
// `Data` is `void` for outputs and `const void` for inputs.
template <class Data>
struct HeadsView {
  Data* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t heads = 0;
  std::int64_t rows = 0;
  std::int64_t dim = 0;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;

  template <class T>
  MINFERENCE_HD T* row(std::int64_t head, std::int64_t row_index) const {
    return static_cast<T*>(data) + head * head_stride + row_index * row_stride;
  }
};

using InputHeads = HeadsView<const void>;
using OutputHeads = HeadsView<void>;

// A borrowed [heads, rows] f32 tensor; strides in elements. data == nullptr: not wanted.
struct RowsView {
  float* data = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;

  MINFERENCE_HD float& at(std::int64_t head, std::int64_t row) const {
    return data[head * head_stride + row * row_stride];
  }
};

}  // namespace minference::base
