#pragma once

#include <cstdint>

#include "base/tensor.h"

// What the kernels demand of where a tensor's rows lie. sm80 adds addresses up, and any that a copy of 16 bytes takes
// will do; sm90 describes the tensor to the copy engine, which besides knows no stride of 0 (heads expanded from one)
// and none that leads back.
namespace minference::kernels::cuda {

// Of a single head or row the stride is never taken, and may be any.
inline bool takes_stride(std::int64_t count) {
  return count != 1;
}

// Every row of 16-bit elements begins on a 16-byte boundary.
template <class Data>
bool has_aligned_rows(const base::HeadsView<Data>& view) {
  constexpr int kBytes = 16, kElements = kBytes / 2;
  const auto is_aligned = [](std::int64_t count, std::int64_t stride) {
    return !takes_stride(count) || stride % kElements == 0;
  };
  return reinterpret_cast<std::uintptr_t>(view.data) % kBytes == 0 &&
         is_aligned(view.heads, view.head_stride) && is_aligned(view.rows, view.row_stride);
}

// The copy engine can be told where the rows lie, as cuda/tensor_map.h does.
template <class Data>
bool suits_copy_engine(const base::HeadsView<Data>& view) {
  const auto leads_on = [](std::int64_t count, std::int64_t stride) {
    return !takes_stride(count) || stride > 0;
  };
  return has_aligned_rows(view) && leads_on(view.heads, view.head_stride) &&
         leads_on(view.rows, view.row_stride);
}

}  // namespace minference::kernels::cuda
