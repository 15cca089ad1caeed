#include "head_patterns.h"

#include <charconv>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace minference::ggml {
namespace {

// As python/minference/config.py: a model without a head-pattern file keeps this share of the estimated mass.
constexpr double kDefaultShare = 0.95;

minference_head_pattern adaptive(double share) {
  return {MINFERENCE_ADAPTIVE, {0, 0}, 0, static_cast<std::int32_t>(share * 1e6 + 0.5)};
}

double parse_share(const std::string& text) {
  double share = 0;
  const char* const end = text.data() + text.size();
  const auto [behind, error] = std::from_chars(text.data(), end, share);
  if (error != std::errc{} || behind != end || !(share >= 1e-6 && share <= 1)) {
    throw std::runtime_error("the share of adaptive patterns must be at least 1e-6 and at most 1, got \"" +
                             text + "\"");
  }
  return share;
}

bool is_gguf(const std::string& path) {
  char magic[4] = {};
  return std::ifstream(path, std::ios::binary).read(magic, sizeof magic) &&
         std::memcmp(magic, "GGUF", 4) == 0;
}

minference_status parse_metadata(const Host& host, const std::string& path, minference_patterns** set) {
  constexpr int kText = 8;  // GGUF_TYPE_STRING
  const bool readable =
      host.gguf_open && host.gguf_free && host.gguf_find_key && host.gguf_value_type && host.gguf_text;
  if (!readable) throw std::runtime_error("this ggml cannot read GGUF files, such as " + path);
  const std::unique_ptr<Gguf, void (*)(Gguf*)> file(host.gguf_open(path.c_str(), {true, nullptr}),
                                                    host.gguf_free);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::int64_t key = host.gguf_find_key(file.get(), kMetadataKey);
  if (key < 0 || host.gguf_value_type(file.get(), key) != kText) {
    throw std::runtime_error(path + " has no text " + kMetadataKey + " in its metadata");
  }
  const char* text = host.gguf_text(file.get(), key);
  return minference_patterns_parse(text, std::strlen(text), path.c_str(), set);
}

}  // namespace

HeadPatterns::HeadPatterns(const Host& host, const std::string& request) : uniform_(adaptive(kDefaultShare)) {
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
    const bool found = minference_patterns_builtin(request.c_str(), &set) == MINFERENCE_OK ||
                       (is_gguf(request) ? parse_metadata(host, request, &set)
                                         : minference_patterns_load(request.c_str(), &set)) == MINFERENCE_OK;
    if (!found) throw std::runtime_error(minference_last_error());
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
