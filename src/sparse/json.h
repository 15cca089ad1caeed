#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace minference::sparse {

// A JSON value. The JSON library's own allocates in its destructor, which ends the process where memory is exhausted; this
// one goes away without.
struct Json {
  struct Field;
  using Array = std::vector<Json>;
  using Object = std::vector<Field>;  // sorted by key

  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> value;

  // An object's field, or null.
  const Json* find(std::string_view key) const;
};

struct Json::Field {
  std::string key;
  Json value;
};

// Refuses text that is not UTF-8 JSON, that repeats a key of an object, that nests more than `max_depth` deep, or that has a
// number beyond the range of a double. `name`, line and column begin the message. Throws Error(invalid_argument).
Json parse_json(std::string_view text, std::string_view name, std::size_t max_depth);

// JSON of a value, compact and in ASCII; cut after 60 characters.
std::string shown(const Json& json);

}  // namespace minference::sparse
