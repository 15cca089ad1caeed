#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/error.h"

namespace minference::base {

// Uninitialised memory on a 64-byte boundary. Throws Error(out_of_memory).
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t count) : size_(count) {
    if (count == 0) return;
    const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    void* memory = bytes / sizeof(T) < count ? nullptr : std::aligned_alloc(64, bytes);
    if (!memory)
      refuse("memory", "is exhausted: an allocation failed (bytes)", bytes, ErrorCode::out_of_memory);
    data_.reset(static_cast<T*>(memory));
  }

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace minference::base
