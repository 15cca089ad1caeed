#pragma once

#include <minference/minference.h>

#include <stdexcept>
#include <string>

namespace minference {

enum class Status {
  invalid_argument = MINFERENCE_INVALID_ARGUMENT,
  unsupported = MINFERENCE_UNSUPPORTED,
  out_of_memory = MINFERENCE_OUT_OF_MEMORY,
  busy = MINFERENCE_BUSY,
  io = MINFERENCE_IO,
  internal = MINFERENCE_INTERNAL,
};

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  Status status() const noexcept { return status_; }

 private:
  Status status_;
};

namespace detail {

inline void check(minference_status status) {
  if (status != MINFERENCE_OK) throw Error(static_cast<Status>(status), minference_last_error());
}

}  // namespace detail

}  // namespace minference
