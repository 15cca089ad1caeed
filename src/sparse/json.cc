#include "sparse/json.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace minference::sparse {
namespace {

constexpr std::size_t kMaxShown = 60;

std::string cut(std::string text) {
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

// Hands the text to the parser and keeps count of what it has read: it tells its position in syntax errors only.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, std::size_t& count) : at_(at), count_(&count) {}

  const char& operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  std::size_t* count_;
};

// What the parser calls, in order of the text.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, std::string_view name, std::size_t max_depth)
      : text_(text), name_(std::string(name) + ":"), max_depth_(max_depth) {}

  Json parse() {
    const char* const end = text_.data() + text_.size();
    nlohmann::json::sax_parse(CountingIterator(text_.data(), num_read_), CountingIterator(end, num_read_),
                              this);
    // The parser takes a NUL for the end of the text.
    if (const std::size_t nul = text_.find('\0'); nul != text_.npos) refuse_character(nul);
    return std::move(root_);
  }

  bool null() override { return add({nullptr}); }
  bool boolean(bool value) override { return add({value}); }
  bool number_integer(std::int64_t value) override { return add({value}); }
  bool number_unsigned(std::uint64_t value) override { return add({value}); }
  bool number_float(double value, const std::string&) override { return add({value}); }
  bool string(std::string& value) override { return add({std::move(value)}); }
  bool binary(binary_t&) override { return false; }  // not in JSON

  bool start_array(std::size_t) override { return open({Json::Array()}); }
  bool end_array() override { return close(); }
  bool start_object(std::size_t) override { return open({Json::Object()}); }
  bool key(std::string& key) override {
    std::get<Json::Object>(open_.back().json->value).push_back({std::move(key), {}});
    return true;
  }
  bool end_object() override {
    auto& fields = std::get<Json::Object>(open_.back().json->value);
    std::sort(fields.begin(), fields.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto repeated = std::adjacent_find(fields.begin(), fields.end(),
                                             [](const auto& a, const auto& b) { return a.key == b.key; });
    if (repeated != fields.end()) {
      refuse(open_.back().begin, "must not repeat a key of an object", shown({repeated->key}));
    }
    return close();
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override {
    if (dynamic_cast<const nlohmann::json::out_of_range*>(&error)) {
      refuse(position - token.size(), "must have no number beyond the range of a double", cut(token));
    }
    refuse_character(position == 0 ? 0 : position - 1);
  }

 private:
  struct OpenJson {
    Json* json;
    std::size_t begin;  // of its text
  };

  [[noreturn]] void refuse(std::size_t at, const std::string& rule, const std::string& got) const {
    const std::string_view before = text_.substr(0, std::min(at, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const auto column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 == 0
    base::refuse(name_ + " line " + std::to_string(line) + ", column " + std::to_string(column) + ":", rule,
                 got);
  }
  // The character at `at`, or the end of the text, where JSON has another.
  [[noreturn]] void refuse_character(std::size_t at) const {
    refuse(at, "must be JSON",
           at < text_.size() ? shown({std::string(1, text_[at])}) : "the end of the text");
  }

  // Where the next value goes: it stays there while it is open, as nothing is added beside it.
  Json& place() {
    if (open_.empty()) return root_;
    if (auto* array = std::get_if<Json::Array>(&open_.back().json->value)) return array->emplace_back();
    return std::get<Json::Object>(open_.back().json->value).back().value;
  }
  bool add(Json value) {
    place() = std::move(value);
    return true;
  }
  // When the parser has just read the bracket that opens the value.
  bool open(Json value) {
    const std::size_t begin = num_read_ - 1;
    if (open_.size() == max_depth_) {
      refuse(begin, "must nest at most " + std::to_string(max_depth_) + " deep", "more");
    }
    Json& opened = place();
    opened = std::move(value);
    open_.push_back({&opened, begin});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::string name_;
  std::size_t max_depth_;
  std::size_t num_read_ = 0;
  Json root_;
  std::vector<OpenJson> open_;
};

// Appends until `text` is longer than what is shown.
void append(const Json& json, std::string& text) {
  if (text.size() > kMaxShown) return;
  const auto scalar = [](const auto& value) {
    return nlohmann::json(value).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  };
  const auto list = [&](char begin, const auto& members, char end, const auto& append_member) {
    text += begin;
    for (const auto& member : members) {
      if (&member != members.data()) text += ',';
      append_member(member);
      if (text.size() > kMaxShown) return;
    }
    text += end;
  };
  std::visit(
      [&](const auto& value) {
        using Value = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<Value, Json::Array>) {
          list('[', value, ']', [&](const Json& member) { append(member, text); });
        } else if constexpr (std::is_same_v<Value, Json::Object>) {
          list('{', value, '}', [&](const auto& field) {
            text += scalar(field.key) + ':';
            append(field.value, text);
          });
        } else {
          text += scalar(value);
        }
      },
      json.value);
}

}  // namespace

const Json* Json::find(std::string_view key) const {
  const auto* fields = std::get_if<Object>(&value);
  if (!fields) return nullptr;
  const auto found = std::lower_bound(fields->begin(), fields->end(), key,
                                      [](const auto& field, std::string_view k) { return field.key < k; });
  return found != fields->end() && found->key == key ? &found->value : nullptr;
}

Json parse_json(std::string_view text, std::string_view name, std::size_t max_depth) {
  return Builder(text, name, max_depth).parse();
}

std::string shown(const Json& json) {
  std::string text;
  append(json, text);
  return cut(std::move(text));
}

}  // namespace minference::sparse
