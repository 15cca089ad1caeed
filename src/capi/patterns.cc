#include "capi/patterns.h"

#include <memory>

#include "capi/heads.h"
#include "capi/status.h"
#include "sparse/pattern_file.h"

namespace minference::capi {
namespace {

void hand_out(sparse::PatternSet set, minference_patterns** patterns) {
  auto made = std::make_unique<minference_patterns>();
  made->json = sparse::write_patterns(set);
  made->set = std::move(set);
  *patterns = made.release();
}

}  // namespace

}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_patterns_load(const char* path, minference_patterns** patterns) {
  return capi::guarded([&] {
    capi::not_null(path, "path");
    capi::not_null(patterns, "patterns");
    capi::hand_out(sparse::load_patterns(path), patterns);
  });
}

minference_status minference_patterns_parse(const char* text, size_t text_size, const char* name,
                                            minference_patterns** patterns) {
  return capi::guarded([&] {
    capi::not_null(text, "text");
    capi::not_null(name, "name");
    capi::not_null(patterns, "patterns");
    capi::hand_out(sparse::parse_patterns({text, text_size}, name), patterns);
  });
}

minference_status minference_patterns_builtin(const char* model, minference_patterns** patterns) {
  return capi::guarded([&] {
    capi::not_null(model, "model");
    capi::not_null(patterns, "patterns");
    capi::hand_out(sparse::builtin_patterns_of(model), patterns);
  });
}

minference_status minference_patterns_create(int64_t num_layers, int64_t num_query_heads,
                                             const minference_head_pattern* heads, const char* source,
                                             minference_patterns** patterns) {
  return capi::guarded([&] {
    constexpr std::int64_t kMost = 1 << 20;
    base::require(num_layers >= 1 && num_layers <= kMost, "num_layers", "must be from 1 to 2^20", num_layers);
    base::require(num_query_heads >= 1 && num_query_heads <= kMost, "num_query_heads",
                  "must be from 1 to 2^20", num_query_heads);
    capi::not_null(patterns, "patterns");
    capi::hand_out({.models = {},
                    .source = source ? source : "",
                    .num_layers = num_layers,
                    .num_query_heads = num_query_heads,
                    .heads = capi::checked_heads(heads, num_layers * num_query_heads)},
                   patterns);
  });
}

void minference_patterns_destroy(minference_patterns* patterns) {
  delete patterns;
}

int64_t minference_builtin_count(void) {
  int64_t count = 0;
  capi::guarded([&] { count = static_cast<int64_t>(sparse::supported_models().size()); });
  return count;
}

const char* minference_builtin_model(int64_t i) {
  const char* name = nullptr;
  capi::guarded([&] {
    static const std::vector<std::string> models = sparse::supported_models();
    if (i >= 0 && i < static_cast<int64_t>(models.size())) name = models[static_cast<std::size_t>(i)].c_str();
  });
  return name;
}

int64_t minference_patterns_num_layers(const minference_patterns* patterns) {
  return patterns ? patterns->set.num_layers : 0;
}

int64_t minference_patterns_num_query_heads(const minference_patterns* patterns) {
  return patterns ? patterns->set.num_query_heads : 0;
}

const char* minference_patterns_source(const minference_patterns* patterns) {
  return patterns ? patterns->set.source.c_str() : "";
}

minference_status minference_patterns_layer(const minference_patterns* patterns, int64_t layer,
                                            minference_head_pattern* heads) {
  return capi::guarded([&] {
    const auto& set = capi::not_null(patterns, "patterns").set;
    base::require(layer >= 0 && layer < set.num_layers, "layer",
                  "must be from 0 to " + std::to_string(set.num_layers - 1), layer);
    capi::not_null(heads, "heads");
    for (std::int64_t h = 0; h < set.num_query_heads; ++h) {
      const auto& head = set.at(layer, h);
      heads[h] = {static_cast<std::int32_t>(head.pattern),
                  {head.size[0], head.size[1]},
                  head.last_dense_rows,
                  head.share_ppm};
    }
  });
}

minference_status minference_patterns_check(const minference_patterns* patterns, int64_t num_layers,
                                            int64_t num_query_heads) {
  return capi::guarded([&] {
    sparse::check_fits(capi::not_null(patterns, "patterns").set, num_layers, num_query_heads, "patterns");
  });
}

minference_status minference_patterns_json(const minference_patterns* patterns, const char** text) {
  return capi::guarded([&] {
    const auto& set = capi::not_null(patterns, "patterns");
    capi::not_null(text, "text");
    *text = set.json.c_str();
  });
}

minference_status minference_patterns_save(const minference_patterns* patterns, const char* path) {
  return capi::guarded([&] {
    const auto& set = capi::not_null(patterns, "patterns").set;
    sparse::save_patterns(set, &capi::not_null(path, "path"));
  });
}

}  // extern "C"
