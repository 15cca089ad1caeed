#include "capi/status.h"

#include <cstdio>

namespace minference::capi {
namespace {

// A fixed buffer, so that keeping a message cannot itself run out of memory.
thread_local char kept_message[1024] = "";

}  // namespace

void remember_error(const char* message) noexcept {
  std::snprintf(kept_message, sizeof kept_message, "%s", message);
}

const char* last_error() noexcept {
  return kept_message;
}

}  // namespace minference::capi
