#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sparse/head_pattern.h"

namespace minference::sparse {

// Reads a head-pattern file from memory. `name` (a path, or "<memory>") begins every error message, which
// goes on to say where in the file and which rule was broken: "p.json: heads[3]: must have 32 letters, got
// 31".
//
// Two formats are understood:
//   ours         {"models": [...], "source": "...", "num_layers": L, "num_query_heads": H,
//                 "legend": {"a": {"pattern": "vertical_slash", "vertical": 1000, "slash": 6096}, ...},
//                 "heads": [L strings of H legend letters]}
//   MInference   [{"0": ["vertical_and_slash", 1000, 6096, score], ...}, ...]: one object per layer, one
//   entry per query
//                head; "stream_llm" is A-shape, "block_sparse" keeps its first number as top_k
// Throws Error(invalid_argument).
PatternSet parse_patterns(std::string_view text, std::string_view name);

// Reads a file. Throws Error(io) when it cannot be read.
PatternSet load_patterns(const std::string& path);

// Our format. parse_patterns(write_patterns(p)) == p.
std::string write_patterns(const PatternSet& patterns);

// Writes to a temporary file beside `path`, then renames. Throws Error(io).
void save_patterns(const PatternSet& patterns, const std::string& path);

// Throws Error(invalid_argument) naming both counts unless the patterns have the model's layers and query
// heads.
void check_fits(const PatternSet& patterns, std::int64_t num_layers, std::int64_t num_query_heads,
                std::string_view name);

// The pattern sets compiled into the library (patterns/*.json).
struct BuiltinPatterns {
  std::string_view file;  // "llama-3.1-8b.json"
  std::string_view text;
};
const std::vector<BuiltinPatterns>& builtin_patterns();

// Every hub id that has a built-in pattern set, sorted.
std::vector<std::string> supported_models();

// The built-in set of a hub id, matched exactly. Throws Error(invalid_argument) listing the supported ids.
PatternSet builtin_patterns_of(std::string_view model);

}  // namespace minference::sparse
