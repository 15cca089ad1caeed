#pragma once

#include <minference/cpp/handle.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace minference {

// What one query head computes. `last_dense_rows` of the call's last rows are computed densely whatever the
// pattern.
using HeadPattern = minference_head_pattern;

// Every causal pair.
constexpr HeadPattern dense() {
  return {MINFERENCE_DENSE, {0, 0}, 0, 0};
}

// Keys k < sink, and keys with 0 <= q - k < local. With last_dense_rows it is TriShape.
constexpr HeadPattern a_shape(std::int32_t sink, std::int32_t local, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_A_SHAPE, {sink, local}, last_dense_rows, 0};
}

// The `vertical` best columns and `slash` best diagonals, as MInference 1.0 selects them.
constexpr HeadPattern vertical_slash(std::int32_t vertical, std::int32_t slash,
                                     std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_VERTICAL_SLASH, {vertical, slash}, last_dense_rows, 0};
}

// The `top_k` best 64-key blocks of every 64-row block.
constexpr HeadPattern block_sparse(std::int32_t top_k, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_BLOCK_SPARSE, {top_k, 0}, last_dense_rows, 0};
}

// Vertical-slash that keeps `share` (0 < share <= 1) of the estimated attention mass.
constexpr HeadPattern adaptive(double share = 0.95, std::int32_t last_dense_rows = 0) {
  return {MINFERENCE_ADAPTIVE, {0, 0}, last_dense_rows, static_cast<std::int32_t>(share * 1e6 + 0.5)};
}

// The patterns of every head of every layer of a model. Immutable; may be shared by threads.
class Patterns {
 public:
  // Our JSON or MInference 1.0's. Throws Status::io when the file cannot be read, Status::invalid_argument
  // where it breaks a rule.
  static Patterns load(const std::string& path) {
    return Patterns(Handle(minference_patterns_load, path.c_str()));
  }
  // The same from memory; `name` begins the messages.
  static Patterns parse(std::string_view text, const std::string& name) {
    return Patterns(Handle(minference_patterns_parse, text.data(), text.size(), name.c_str()));
  }
  // The set compiled into the library for a hub id; see supported_models().
  static Patterns builtin(const std::string& model) {
    return Patterns(Handle(minference_patterns_builtin, model.c_str()));
  }
  // heads [num_layers, heads.size() / num_layers].
  static Patterns create(std::int64_t num_layers, std::span<const HeadPattern> heads,
                         const std::string& source = {}) {
    const auto count = static_cast<std::int64_t>(heads.size());
    if (num_layers < 1 || count % num_layers != 0)
      throw Error(Status::invalid_argument, "num_layers must divide heads.size() = " + std::to_string(count) +
                                                ", got " + std::to_string(num_layers));
    return Patterns(
        Handle(minference_patterns_create, num_layers, count / num_layers, heads.data(), source.c_str()));
  }

  std::int64_t num_layers() const { return minference_patterns_num_layers(c()); }
  std::int64_t num_query_heads() const { return minference_patterns_num_query_heads(c()); }
  // Where the set came from, as its file says.
  std::string_view source() const { return minference_patterns_source(c()); }
  // The num_query_heads() patterns of one layer.
  std::vector<HeadPattern> layer(std::int64_t i) const {
    std::vector<HeadPattern> heads(static_cast<std::size_t>(num_query_heads()));
    detail::check(minference_patterns_layer(c(), i, heads.data()));
    return heads;
  }
  // Throws, naming both counts, unless the set has exactly these.
  void check(std::int64_t num_layers, std::int64_t num_query_heads) const {
    detail::check(minference_patterns_check(c(), num_layers, num_query_heads));
  }
  // Our JSON; valid as long as the set.
  std::string_view json() const {
    const char* text = nullptr;
    detail::check(minference_patterns_json(c(), &text));
    return text;
  }
  // Written to a temporary file beside `path`, then renamed.
  void save(const std::string& path) const { detail::check(minference_patterns_save(c(), path.c_str())); }

  const minference_patterns* c() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<minference_patterns, minference_patterns_destroy>;

  explicit Patterns(Handle handle) : handle_(std::move(handle)) {}

  Handle handle_;
};

// Hub ids with a built-in set, sorted.
inline std::vector<std::string> supported_models() {
  std::vector<std::string> models;
  for (std::int64_t i = 0; i < minference_builtin_count(); ++i)
    models.emplace_back(minference_builtin_model(i));
  return models;
}

}  // namespace minference
