#pragma once

#include <minference/cpp/error.hpp>

#include <memory>

namespace minference::detail {

// Owns a handle of the C ABI.
template <class T, void (*destroy)(T*)>
class Handle {
 public:
  // create(arguments..., &handle) makes it.
  template <class Create, class... Arguments>
  explicit Handle(Create create, Arguments... arguments) {
    T* made = nullptr;
    check(create(arguments..., &made));
    handle_.reset(made);
  }

  T* get() const noexcept { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(T* handle) const noexcept { destroy(handle); }
  };
  std::unique_ptr<T, Destroy> handle_;
};

}  // namespace minference::detail
