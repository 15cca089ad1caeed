#include "capi/status.h"

extern "C" {

const char* minference_version(void) {
  return MINFERENCE_VERSION;
}
uint32_t minference_abi_version(void) {
  return MINFERENCE_ABI_VERSION;
}
minference_status minference_last_status(void) {
  return minference::capi::last_status();
}

const char* minference_last_error(void) {
  return minference::capi::last_error();
}

}  // extern "C"
