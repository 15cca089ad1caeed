#include <algorithm>

#include "base/error.h"
#include "sparse/pattern_file.h"

namespace minference::sparse {
namespace {

const std::vector<PatternSet>& parsed_builtins() {
  static const std::vector<PatternSet> sets = [] {
    std::vector<PatternSet> parsed;
    for (const BuiltinPatterns& builtin : builtin_patterns()) {
      parsed.push_back(parse_patterns(builtin.text, builtin.file));
    }
    return parsed;
  }();
  return sets;
}

}  // namespace

std::vector<std::string> supported_models() {
  std::vector<std::string> models;
  for (const PatternSet& set : parsed_builtins())
    models.insert(models.end(), set.models.begin(), set.models.end());
  std::sort(models.begin(), models.end());
  return models;
}

PatternSet builtin_patterns_of(std::string_view model) {
  for (const PatternSet& set : parsed_builtins()) {
    if (std::find(set.models.begin(), set.models.end(), model) != set.models.end()) return set;
  }
  std::string models;
  for (const std::string& supported : supported_models()) models += (models.empty() ? "" : ", ") + supported;
  base::refuse("model", "must be one of " + models, model);
}

}  // namespace minference::sparse
