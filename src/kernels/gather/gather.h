#pragma once

#include <cstdint>
#include <span>

#include "base/executor.h"
#include "base/tensor.h"

namespace minference::kernels {

// Keys or values of one sequence in a paged cache whose pages hold them in an order of the host's own: element (token, dim)
// of a page and head lies token_offsets[token] + dim_offsets[dim] elements after that page's and head's first.
struct Pages {
  const void* first = nullptr;                    // of page 0 of the pool, head 0
  std::int64_t page_stride = 0, head_stride = 0;  // elements
  std::span<const std::int32_t> token_offsets;    // [page_size]
  std::span<const std::int32_t> dim_offsets;      // [out.dim]
  const std::int32_t* table = nullptr;            // the sequence's pages, in order
};

// Copies the first out.rows tokens of the sequence to `out`, of the pool's dtype.
void gather_pages(const Pages& pages, const base::OutputHeads& out, base::Executor& executor);

}  // namespace minference::kernels
