#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host.h"
#include "minference/minference.h"

namespace minference::ggml {

inline constexpr const char* kMetadataKey = "minference.head_patterns";

// Which pattern every head has, as the environment asks for.
class HeadPatterns {
 public:
  // `request`: "" or "adaptive", "adaptive:SHARE", "dense", a hub id with built-in patterns, a head-pattern file,
  // or a GGUF file that has one in its metadata, as the text of `kMetadataKey`. Throws std::runtime_error for
  // anything else.
  HeadPatterns(const Host& host, const std::string& request);

  // Of a layer; -1: which one is unknown. Adaptive, and `matches` false, where the patterns asked for are not
  // those of such a model.
  std::span<const minference_head_pattern> layer(int layer, std::int64_t num_heads, bool& matches);

  // For the log.
  const std::string& description() const { return description_; }

 private:
  struct Destroy {
    void operator()(minference_patterns* patterns) const { minference_patterns_destroy(patterns); }
  };
  std::unique_ptr<minference_patterns, Destroy> set_;  // null: every head has `uniform_`
  minference_head_pattern uniform_{};
  std::string description_;
  std::vector<minference_head_pattern> heads_;
};

}  // namespace minference::ggml
