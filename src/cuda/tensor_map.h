#pragma once

#include <cuda.h>

#include "base/tensor.h"

namespace minference::cuda {

// The copy engine's description of a [heads, rows, dim] tensor of 16-bit elements, read or written in boxes
// of one head, `box_rows` rows and 64 elements, which stand in shared memory as rows of 128 bytes with the
// 128-byte swizzle. `name` begins the message of the Error thrown when data or strides are not multiples of
// 16 bytes.
CUtensorMap tensor_map(const base::InputHeads& tensor, int box_rows, const char* name);

}  // namespace minference::cuda
