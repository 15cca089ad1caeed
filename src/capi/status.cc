#include "capi/status.h"

#include <algorithm>
#include <string_view>

namespace minference::capi {
namespace {

thread_local minference_status kept_status = MINFERENCE_OK;
// A fixed buffer, so that keeping a message cannot itself run out of memory.
thread_local char kept_message[1024] = "";

bool continues_character(char byte) {  // in UTF-8
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

}  // namespace

minference_status remember_error(minference_status status, const char* message) noexcept {
  kept_status = status;
  const std::string_view text = message;
  if (text.size() < sizeof kept_message) {
    *std::copy(text.begin(), text.end(), kept_message) = '\0';
    return status;
  }
  // What is too long is a name, at the beginning, or a value, at the end: the middle tells least.
  constexpr std::string_view kLeftOut = "...";
  constexpr std::size_t kHalf = (sizeof kept_message - 1 - kLeftOut.size()) / 2;
  std::size_t head = kHalf, tail = text.size() - kHalf;
  while (head > 0 && continues_character(text[head])) --head;
  while (tail < text.size() && continues_character(text[tail])) ++tail;
  char* end = std::copy_n(text.begin(), head, kept_message);
  end = std::copy(kLeftOut.begin(), kLeftOut.end(), end);
  *std::copy(text.begin() + tail, text.end(), end) = '\0';
  return status;
}

minference_status last_status() noexcept {
  return kept_status;
}

const char* last_error() noexcept {
  return kept_message;
}

}  // namespace minference::capi
