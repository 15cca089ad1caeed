#include "capi/status.h"

#include <cstdio>

namespace minference::capi {
namespace {

thread_local minference_status kept_status = MINFERENCE_OK;
// A fixed buffer, so that keeping a message cannot itself run out of memory.
thread_local char kept_message[1024] = "";

}  // namespace

minference_status remember_error(minference_status status, const char* message) noexcept {
  kept_status = status;
  std::snprintf(kept_message, sizeof kept_message, "%s", message);
  return status;
}

minference_status last_status() noexcept {
  return kept_status;
}

const char* last_error() noexcept {
  return kept_message;
}

}  // namespace minference::capi
