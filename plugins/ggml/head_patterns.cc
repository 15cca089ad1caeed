#include "head_patterns.h"

#include <cstdlib>
#include <stdexcept>

namespace minference::ggml {
namespace {

// As python/minference/config.py: a model without a head-pattern file keeps this share of the estimated mass.
constexpr double kDefaultShare = 0.95;

minference_head_pattern adaptive(double share) {
  return {MINFERENCE_ADAPTIVE, {0, 0}, 0, static_cast<std::int32_t>(share * 1e6 + 0.5)};
}

double parse_share(const std::string& text) {
  char* end = nullptr;
  const double share = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(share > 0 && share <= 1)) {
    throw std::runtime_error("the share of adaptive patterns must be above 0 and at most 1, got \"" + text +
                             "\"");
  }
  return share;
}

}  // namespace

HeadPatterns::HeadPatterns(const std::string& request) : uniform_(adaptive(kDefaultShare)) {
  const std::string prefix = "adaptive:";
  if (request.empty() || request == "adaptive") {
    description_ = "adaptive";
  } else if (request.starts_with(prefix)) {
    uniform_ = adaptive(parse_share(request.substr(prefix.size())));
    description_ = request;
  } else if (request == "dense") {
    uniform_ = {MINFERENCE_DENSE, {0, 0}, 0, 0};
    description_ = request;
  } else {
    minference_patterns* set = nullptr;
    if (minference_patterns_builtin(request.c_str(), &set) != MINFERENCE_OK &&
        minference_patterns_load(request.c_str(), &set) != MINFERENCE_OK) {
      throw std::runtime_error(minference_last_error());
    }
    set_.reset(set);
    description_ = request;
  }
}

std::span<const minference_head_pattern> HeadPatterns::layer(int layer, std::int64_t num_heads,
                                                             bool& matches) {
  matches = !set_ || (layer >= 0 && layer < minference_patterns_num_layers(set_.get()) &&
                      num_heads == minference_patterns_num_query_heads(set_.get()));
  heads_.assign(static_cast<std::size_t>(num_heads), uniform_);
  if (set_ && matches) minference_patterns_layer(set_.get(), layer, heads_.data());
  return heads_;
}

}  // namespace minference::ggml
