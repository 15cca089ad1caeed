#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "base/error.h"
#include "sparse/pattern_fields.h"
#include "sparse/pattern_file.h"

namespace minference::sparse {
namespace {

using nlohmann::json;

constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

std::string json_string(const std::string& text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string legend_entry(const HeadPattern& head) {
  const auto& fields = *std::find_if(std::begin(kPatternFields), std::end(kPatternFields),
                                     [&](const PatternFields& f) { return f.pattern == head.pattern; });
  std::string entry = "{\"pattern\": " + json_string(fields.name);
  const auto add = [&](const char* name, const auto& value) {
    entry += ", " + json_string(name) + ": " + json(value).dump();
  };
  for (int i = 0; i < 2; ++i) {
    if (fields.sizes[i]) add(fields.sizes[i], head.size[i]);
  }
  if (head.pattern == Pattern::adaptive) add("share", head.share_ppm / 1e6);
  if (head.last_dense_rows > 0) add("last_dense_rows", head.last_dense_rows);
  return entry + "}";
}

// The distinct entries, most frequent first, and among equals in order of appearance.
std::vector<std::string> legend_of(const std::vector<std::string>& entries) {
  std::map<std::string_view, std::int64_t> counts;
  std::vector<std::string> legend;
  for (const std::string& entry : entries) {
    if (++counts[entry] == 1) legend.push_back(entry);
  }
  std::stable_sort(legend.begin(), legend.end(),
                   [&](const std::string& a, const std::string& b) { return counts.at(a) > counts.at(b); });
  return legend;
}

// "abca" while the legend has letters for names, otherwise ["p0", "p1", "p2", "p0"].
std::string row_of(std::span<const std::string> names, bool letters) {
  std::string row;
  for (const std::string& name : names) row += letters ? name : (row.empty() ? "" : ", ") + json_string(name);
  return letters ? json_string(row) : "[" + row + "]";
}

// `lines` indented by four, one below the other, separated by commas.
std::string block_of(const std::vector<std::string>& lines) {
  std::string block;
  for (const std::string& line : lines) block += (block.empty() ? "    " : ",\n    ") + line;
  return block + '\n';
}

// An open file descriptor that is closed in every case.
class OutputFile {
 public:
  // Refuses to open a file that exists. The mode is what the process's umask leaves of rw-rw-rw-.
  explicit OutputFile(const std::string& path)
      : descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {}
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  bool is_open() const { return descriptor_ >= 0; }

  // Whether all of `text` has reached the disk.
  bool write_all(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = write(descriptor_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return false;
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    return fsync(descriptor_) == 0;
  }

 private:
  int descriptor_;
};

}  // namespace

std::string write_patterns(const PatternSet& patterns) {
  std::vector<std::string> entries;
  for (const HeadPattern& head : patterns.heads) entries.push_back(legend_entry(head));
  const std::vector<std::string> legend = legend_of(entries);
  const bool letters = legend.size() <= kLetters.size();
  std::map<std::string_view, std::string> names;
  std::vector<std::string> legend_lines, rows;
  for (std::size_t i = 0; i < legend.size(); ++i) {
    std::string name(1, letters ? kLetters[i] : 'p');
    if (!letters) name += std::to_string(i);
    names[legend[i]] = name;
    legend_lines.push_back(json_string(name) + ": " + legend[i]);
  }
  for (std::string& entry : entries) entry = names.at(entry);
  for (std::int64_t layer = 0; layer < patterns.num_layers; ++layer) {
    const auto first = entries.begin() + layer * patterns.num_query_heads;
    rows.push_back(row_of({first, first + patterns.num_query_heads}, letters));
  }

  std::string models;
  for (const std::string& model : patterns.models)
    models += (models.empty() ? "" : ", ") + json_string(model);
  // Not a stream: streams keep to themselves that memory ran out.
  return "{\n  \"models\": [" + models + "],\n  \"source\": " + json_string(patterns.source) +
         ",\n  \"num_layers\": " + std::to_string(patterns.num_layers) +
         ",\n  \"num_query_heads\": " + std::to_string(patterns.num_query_heads) + ",\n  \"legend\": {\n" +
         block_of(legend_lines) + "  },\n  \"heads\": [\n" + block_of(rows) + "  ]\n}\n";
}

void save_patterns(const PatternSet& patterns, const std::string& path) {
  const std::string text = write_patterns(patterns);
  static std::atomic<int> saves = 0;  // threads that save to one path use files of their own
  const std::string temporary =
      path + "." + std::to_string(getpid()) + "-" + std::to_string(saves++) + ".tmp";
  const auto fail = [&](const char* rule) {
    base::refuse(path + ":", rule, std::strerror(errno), base::ErrorCode::io);
  };
  OutputFile file(temporary);
  if (!file.is_open()) fail("must be in a folder that can be written");
  if (file.write_all(text) && std::rename(temporary.c_str(), path.c_str()) == 0) return;
  const int error = errno;
  unlink(temporary.c_str());
  errno = error;
  fail("must be a file that can be written");
}

}  // namespace minference::sparse
