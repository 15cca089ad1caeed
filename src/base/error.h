#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace minference::base {

// Values are those of minference_status in the C ABI.
enum class ErrorCode {
  invalid_argument = 1,
  unsupported = 2,
  out_of_memory = 3,
  busy = 4,
  io = 5,
  internal = 6,
};

// The one exception type of the library; the C ABI turns it into a status and a message.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Throws "<name> <rule>, got <value>", the form of every argument error.
template <class Value>
[[noreturn]] void refuse(std::string_view name, std::string_view rule, const Value& value,
                         ErrorCode code = ErrorCode::invalid_argument) {
  std::ostringstream message;
  message.imbue(std::locale::classic());  // not the host's, which may group digits
  message << name << ' ' << rule << ", got " << value;
  throw Error(code, message.str());
}

template <class Value>
void require(bool holds, std::string_view name, std::string_view rule, const Value& value,
             ErrorCode code = ErrorCode::invalid_argument) {
  if (!holds) refuse(name, rule, value, code);
}

}  // namespace minference::base
