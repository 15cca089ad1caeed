#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "cuda/stream.h"

namespace minference::kernels::cuda {

// Keys or values of one sequence in a paged cache.
struct Pages {
  base::InputHeads first;               // page 0: [num_kv_heads, page_size, head_dim] of 16-bit elements
  std::int64_t page_stride = 0;         // elements from a page to the next of the pool
  const std::int32_t* table = nullptr;  // device memory: the sequence's pages, in order
};

// Copies the first out.rows rows of a sequence to `out`, [num_kv_heads, out.rows, head_dim]. Addresses and
// strides are multiples of 16 bytes. What the table names is not checked: it is not known on the host.
void gather_pages(const Pages& pages, const base::OutputHeads& out, minference::cuda::Stream stream);

}  // namespace minference::kernels::cuda
