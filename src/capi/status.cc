#include "capi/status.h"

#include <cstdio>

namespace minference::capi {
namespace {

// A fixed buffer, so that keeping a message cannot itself run out of memory.
thread_local char last_error[1024] = "";

}  // namespace

void remember_error(const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
}

}  // namespace minference::capi

extern "C" {

const char* minference_version(void) {
  return MINFERENCE_VERSION;
}
uint32_t minference_abi_version(void) {
  return MINFERENCE_ABI_VERSION;
}
const char* minference_last_error(void) {
  return minference::capi::last_error;
}

}  // extern "C"
