#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sparse/head_pattern.h"

namespace minference::sparse {

// Reads a head-pattern file from memory. `name` (a path, or "<memory>") begins every error message, which
// then says where in the file and which rule was broken: "p.json: heads[3]: must have 32 letters, got 31".
//
// Two formats are understood, both UTF-8 JSON without repeated keys:
//   ours         {"models": [...], "source": "...", "num_layers": L, "num_query_heads": H,
//                 "legend": {"a": {"pattern": "vertical_slash", "vertical": 1000, "slash": 6096}, ...},
//                 "heads": [L strings of H legend letters]}
//                models and source may be left out; a row of heads may also be an array of H legend names. A
//                legend entry has the fields of its pattern, and may have last_dense_rows:
//                  dense                           vertical_slash  vertical, slash
//                  a_shape       sink, local       block_sparse    top_k
//                  adaptive      share (0.000001 .. 1)
//                Fields that are not listed here are refused.
//   MInference   [{"0": ["vertical_and_slash", 1000, 6096, score], ...}, ...]: one object per layer, one
//                entry per query head; "stream_llm" is A-shape, "block_sparse" keeps its first number as
//                top_k. A head without an entry, which MInference 1.0 silently gives (1000, 6096), is refused.
// Throws Error(invalid_argument), also for more than 64 MiB.
PatternSet parse_patterns(std::string_view text, std::string_view name);

// Reads a file. Throws Error(io) when it cannot be read.
PatternSet load_patterns(const std::string& path);

// Our format. parse_patterns(write_patterns(p)) == p, but for fields that a head's pattern does not use and
// bytes of models and source that are not UTF-8.
std::string write_patterns(const PatternSet& patterns);

// Writes to a temporary file beside `path`, then renames: `path` holds the old file or the new one, whole.
// Throws Error(io).
void save_patterns(const PatternSet& patterns, const std::string& path);

// Throws Error(invalid_argument), naming both counts, unless the patterns have the model's layers and heads.
void check_fits(const PatternSet& patterns, std::int64_t num_layers, std::int64_t num_query_heads,
                std::string_view name);

// The pattern sets compiled into the library (patterns/*.json), in order of file name.
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
