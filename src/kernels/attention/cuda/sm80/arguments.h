#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/attention/cuda/schedule.h"
#include "kernels/attention/cuda/sm80/item.h"
#include "sparse/device_index.h"

// What the host tells the sm80 attention kernel.
namespace minference::kernels::cuda::sm80 {

// Rows of 16-bit elements on 16-byte boundaries; strides in bytes.
struct ByteRows {
  const char* data;
  std::int64_t head_stride;
  std::int32_t row_stride;
};

struct Arguments {
  ByteRows query, key, value;
  base::OutputHeads out;
  bool out_aligned;  // its rows begin on 16-byte boundaries
  base::RowsView lse;
  float scale_log2;  // softmax_scale * log2(e)
  std::int32_t head_dim;
  CallShape shape;
  Schedule schedule;
  sparse::DeviceIndex index;
  const std::uint32_t* cover;  // [num_query_heads, cover_words]; nullptr: no head has tiles and columns
};

}  // namespace minference::kernels::cuda::sm80
