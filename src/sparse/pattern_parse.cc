#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "sparse/json.h"
#include "sparse/pattern_fields.h"
#include "sparse/pattern_file.h"

namespace minference::sparse {
namespace {

constexpr std::int64_t kMaxBudget = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxCount = 1 << 20;  // of layers, and of query heads
constexpr std::size_t kMaxDepth = 4;         // neither format needs more than 3
constexpr std::size_t kMaxFile = 64 << 20;   // bytes
constexpr std::size_t kMaxPlainName = 60;    // characters

void check_size(std::size_t size, std::string_view name) {
  if (size > kMaxFile) base::refuse(std::string(name) + ":", "must have at most 64 MiB", "more");
}

// `path` and a field of the value there; unusual names are quoted as in JSON.
std::string path_of_field(const std::string& path, const std::string& field) {
  const bool plain =
      !field.empty() && field.size() <= kMaxPlainName &&
      std::all_of(field.begin(), field.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  return path + (path.empty() ? "" : ".") + (plain ? field : shown({field}));
}

// A value of a file and where in it the value stands, for messages. Refers to the document it came from.
class Node {
 public:
  Node(const Json& json, std::string_view file, std::string path)
      : json_(&json), file_(file), path_(std::move(path)) {}

  template <class Got>
  [[noreturn]] void refuse(const std::string& rule, const Got& got) const {
    std::string where(file_);
    if (!path_.empty()) where += ": " + path_;
    base::refuse(where + ":", rule, got);
  }
  [[noreturn]] void refuse(const std::string& rule) const { refuse(rule, shown(*json_)); }

  bool is_object() const { return get<Json::Object>(); }
  bool is_array() const { return get<Json::Array>(); }
  bool is_string() const { return get<std::string>(); }

  const std::string& string() const {
    const auto* value = get<std::string>();
    if (!value) refuse("must be a string");
    return *value;
  }

  std::int64_t integer(std::int64_t first, std::int64_t last) const {
    const auto* value = get<std::uint64_t>();
    if (!value || std::cmp_less(*value, first) || std::cmp_greater(*value, last)) {
      refuse("must be an integer from " + std::to_string(first) + " to " + std::to_string(last));
    }
    return static_cast<std::int64_t>(*value);
  }

  double number() const {
    if (const auto* value = get<double>()) return *value;
    if (const auto* value = get<std::int64_t>()) return static_cast<double>(*value);
    if (const auto* value = get<std::uint64_t>()) return static_cast<double>(*value);
    refuse("must be a number");
  }

  std::vector<Node> members() const {
    const auto* array = get<Json::Array>();
    if (!array) refuse("must be an array");
    std::vector<Node> members;
    for (std::size_t i = 0; i < array->size(); ++i) {
      members.emplace_back((*array)[i], file_, path_ + "[" + std::to_string(i) + "]");
    }
    return members;
  }

  std::vector<std::pair<std::string, Node>> fields() const {
    const auto* object = get<Json::Object>();
    if (!object) refuse("must be an object");
    std::vector<std::pair<std::string, Node>> fields;
    for (const auto& [key, value] : *object) {
      fields.emplace_back(key, Node(value, file_, path_of_field(path_, key)));
    }
    return fields;
  }

  bool has(const std::string& key) const { return json_->find(key); }

  Node field(const std::string& key) const {
    if (!is_object()) refuse("must be an object");
    if (!has(key)) refuse("must have a field \"" + key + "\"", "none");
    return {*json_->find(key), file_, path_of_field(path_, key)};
  }

  void allow_fields(const std::set<std::string>& known) const {
    for (const auto& [key, value] : fields()) {
      if (!known.contains(key)) refuse("must have no unknown field", shown({key}));
    }
  }

 private:
  template <class Value>
  const Value* get() const {
    return std::get_if<Value>(&json_->value);
  }

  const Json* json_;
  std::string_view file_;
  std::string path_;
};

HeadPattern parse_legend_entry(const Node& entry) {
  const Node pattern = entry.field("pattern");
  const auto* fields = std::find_if(std::begin(kPatternFields), std::end(kPatternFields),
                                    [&](const PatternFields& f) { return f.name == pattern.string(); });
  if (fields == std::end(kPatternFields)) {
    pattern.refuse("must be one of dense, a_shape, vertical_slash, block_sparse, adaptive");
  }
  HeadPattern head{.pattern = fields->pattern};
  std::set<std::string> known = {"pattern", "last_dense_rows"};
  for (int i = 0; i < 2; ++i) {
    if (!fields->sizes[i]) continue;
    known.insert(fields->sizes[i]);
    head.size[i] = static_cast<std::int32_t>(entry.field(fields->sizes[i]).integer(0, kMaxBudget));
  }
  if (head.pattern == Pattern::adaptive) {
    known.insert("share");
    const double share = entry.field("share").number();
    if (!(share >= 1e-6 && share <= 1)) entry.field("share").refuse("must be a number from 0.000001 to 1");
    head.share_ppm = static_cast<std::int32_t>(std::lround(share * 1e6));
  }
  if (entry.has("last_dense_rows")) {
    head.last_dense_rows = static_cast<std::int32_t>(entry.field("last_dense_rows").integer(0, kMaxBudget));
  }
  entry.allow_fields(known);
  return head;
}

using Legend = std::map<std::string, HeadPattern>;

const HeadPattern& find_in_legend(const Legend& legend, const std::string& name, const Node& where) {
  const auto found = legend.find(name);
  if (found == legend.end()) where.refuse("must be in the legend", shown({name}));
  return found->second;
}

void parse_row(const Node& row, const Legend& legend, std::int64_t num_query_heads,
               std::vector<HeadPattern>& heads) {
  const std::string count = std::to_string(num_query_heads);
  if (row.is_string()) {
    const std::string& letters = row.string();
    if (std::ssize(letters) != num_query_heads) row.refuse("must have " + count + " letters", letters.size());
    for (const char letter : letters) heads.push_back(find_in_legend(legend, std::string(1, letter), row));
    return;
  }
  if (!row.is_array()) row.refuse("must be a string of legend letters or an array of legend names");
  const std::vector<Node> names = row.members();
  if (std::ssize(names) != num_query_heads) row.refuse("must have " + count + " names", names.size());
  for (const Node& name : names) heads.push_back(find_in_legend(legend, name.string(), name));
}

PatternSet parse_ours(const Node& root) {
  root.allow_fields({"models", "source", "num_layers", "num_query_heads", "legend", "heads"});
  PatternSet set;
  if (root.has("models")) {
    for (const Node& model : root.field("models").members()) set.models.push_back(model.string());
  }
  if (root.has("source")) set.source = root.field("source").string();
  set.num_layers = root.field("num_layers").integer(1, kMaxCount);
  set.num_query_heads = root.field("num_query_heads").integer(1, kMaxCount);
  Legend legend;
  for (const auto& [name, entry] : root.field("legend").fields()) legend[name] = parse_legend_entry(entry);
  const Node heads = root.field("heads");
  const std::vector<Node> rows = heads.members();
  if (std::ssize(rows) != set.num_layers) {
    heads.refuse("must have " + std::to_string(set.num_layers) + " rows", rows.size());
  }
  for (const Node& row : rows) parse_row(row, legend, set.num_query_heads, set.heads);
  return set;
}

// [pattern, first size, second size, score]; MInference 1.0 ignores the score too.
HeadPattern parse_minference_entry(const Node& entry) {
  const std::vector<Node> members = entry.members();
  if (members.size() != 4) entry.refuse("must be [pattern, size, size, score]");
  const std::string& name = members[0].string();
  HeadPattern head;
  if (name == "vertical_and_slash") {
    head.pattern = Pattern::vertical_slash;
  } else if (name == "stream_llm") {
    head.pattern = Pattern::a_shape;
  } else if (name == "block_sparse") {
    head.pattern = Pattern::block_sparse;
  } else {
    members[0].refuse("must be one of vertical_and_slash, stream_llm, block_sparse");
  }
  for (int i = 0; i < 2; ++i) head.size[i] = static_cast<std::int32_t>(members[1 + i].integer(0, kMaxBudget));
  if (head.pattern == Pattern::block_sparse) head.size[1] = 0;
  members[3].number();
  return head;
}

// The head that a key of a layer names: "0", "1", ... without leading zeros.
std::int64_t parse_head_number(const Node& layer, const std::string& key) {
  std::int64_t head = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), head);
  if (error != std::errc{} || head < 0 || head >= kMaxCount || key != std::to_string(head)) {
    layer.refuse("must have query heads 0 to 1048575 as keys", shown({key}));
  }
  return head;
}

PatternSet parse_minference(const Node& root) {
  PatternSet set{.source = "head patterns in MInference 1.0's format"};
  std::vector<std::map<std::int64_t, HeadPattern>> layers;
  const std::vector<Node> nodes = root.members();
  for (const Node& layer : nodes) {
    auto& heads = layers.emplace_back();
    for (const auto& [key, entry] : layer.fields()) {
      const std::int64_t head = parse_head_number(layer, key);
      heads[head] = parse_minference_entry(entry);
      set.num_query_heads = std::max(set.num_query_heads, head + 1);
    }
  }
  set.num_layers = std::ssize(layers);
  if (set.num_query_heads == 0) root.refuse("must have a layer with a query head");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::int64_t next = 0;
    for (const auto& [head, pattern] : layers[i]) {
      if (head != next) break;
      set.heads.push_back(pattern);
      ++next;
    }
    if (next < set.num_query_heads) {
      nodes[i].refuse("must have an entry for query head " + std::to_string(next), "none");
    }
  }
  return set;
}

}  // namespace

PatternSet parse_patterns(std::string_view text, std::string_view name) {
  check_size(text.size(), name);
  const Json document = parse_json(text, name, kMaxDepth);
  const Node layers(document, name, "layers"), root(document, name, "");
  if (layers.is_array()) return parse_minference(layers);
  if (!root.is_object()) root.refuse("must be an object, or an array in MInference 1.0's format");
  return parse_ours(root);
}

PatternSet load_patterns(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char chunk[1 << 16];
  while (file.read(chunk, sizeof chunk), file.gcount() > 0) {
    text.append(chunk, static_cast<std::size_t>(file.gcount()));
    check_size(text.size(), path);
  }
  if (!file.eof())
    base::refuse(path + ":", "must be a readable file", std::strerror(errno), base::ErrorCode::io);
  return parse_patterns(text, path);
}

void check_fits(const PatternSet& patterns, std::int64_t num_layers, std::int64_t num_query_heads,
                std::string_view name) {
  if (patterns.num_layers == num_layers && patterns.num_query_heads == num_query_heads) return;
  const auto counts = [](std::int64_t layers, std::int64_t heads) {
    return std::to_string(layers) + " layers of " + std::to_string(heads) + " query heads";
  };
  base::refuse(name, "must have the model's " + counts(num_layers, num_query_heads),
               counts(patterns.num_layers, patterns.num_query_heads));
}

}  // namespace minference::sparse
