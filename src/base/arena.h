#pragma once

#include <cstddef>
#include <cstdint>

namespace minference::base {

// Hands out pieces of a workspace on 256-byte boundaries; with a null base it only counts.
class Arena {
 public:
  static constexpr std::size_t kAlignment = 256;

  explicit Arena(void* base) : base_(static_cast<std::uint8_t*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  std::uint8_t* base_;
  std::size_t used_ = 0;
};

}  // namespace minference::base
