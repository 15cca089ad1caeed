#pragma once

#include "sparse/head_pattern.h"

// Shared by the files of this folder that read and write head-pattern files: how our format spells a pattern.
namespace minference::sparse {

struct PatternFields {
  const char* name;
  Pattern pattern;
  const char* sizes[2];  // fields of HeadPattern::size; nullptr: not used
};

inline constexpr PatternFields kPatternFields[] = {
    {"dense", Pattern::dense, {nullptr, nullptr}},
    {"a_shape", Pattern::a_shape, {"sink", "local"}},
    {"vertical_slash", Pattern::vertical_slash, {"vertical", "slash"}},
    {"block_sparse", Pattern::block_sparse, {"top_k", nullptr}},
    {"adaptive", Pattern::adaptive, {nullptr, nullptr}},  // and "share"
};

}  // namespace minference::sparse
