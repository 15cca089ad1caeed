#pragma once

#include <string>

#include "minference/minference.h"
#include "sparse/head_pattern.h"

struct minference_patterns {
  minference::sparse::PatternSet set;
  std::string json;  // of `set`, made once
};
