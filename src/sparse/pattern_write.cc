#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

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

const PatternFields& fields_of(Pattern pattern) {
  return *std::find_if(std::begin(kPatternFields), std::end(kPatternFields),
                       [&](const PatternFields& f) { return f.pattern == pattern; });
}

std::string legend_entry(const HeadPattern& head) {
  const PatternFields& fields = fields_of(head.pattern);
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

// What legend_entry tells of a head, as numbers: a string for every head would take more memory than all else.
using EntryKey = std::array<std::int32_t, 5>;

EntryKey entry_key(const HeadPattern& head) {
  const PatternFields& fields = fields_of(head.pattern);
  return {static_cast<std::int32_t>(head.pattern), fields.sizes[0] ? head.size[0] : 0,
          fields.sizes[1] ? head.size[1] : 0, head.pattern == Pattern::adaptive ? head.share_ppm : 0,
          head.last_dense_rows};
}

struct Legend {
  std::vector<std::string> entries;   // most frequent first, and among equals in order of appearance
  std::vector<std::int32_t> of_head;  // which of them every head has
};

Legend legend_of(const std::vector<HeadPattern>& heads) {
  // Entries in order of appearance.
  std::map<EntryKey, std::int32_t> numbers;
  std::vector<std::string> entries;
  std::vector<std::int64_t> counts;
  Legend legend;
  legend.of_head.reserve(heads.size());
  for (const HeadPattern& head : heads) {
    const auto [found, added] =
        numbers.try_emplace(entry_key(head), static_cast<std::int32_t>(entries.size()));
    if (added) {
      entries.push_back(legend_entry(head));
      counts.push_back(0);
    }
    ++counts[found->second];
    legend.of_head.push_back(found->second);
  }

  std::vector<std::int32_t> order(entries.size()), place(entries.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return counts[a] > counts[b]; });
  for (const std::int32_t number : order) {
    place[number] = static_cast<std::int32_t>(legend.entries.size());
    legend.entries.push_back(std::move(entries[number]));
  }
  for (std::int32_t& number : legend.of_head) number = place[number];
  return legend;
}

// append(i) for every i in [0, count), with a separator between.
template <class Append>
void join(std::string& text, std::int64_t count, const char* separator, Append append) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (i > 0) text += separator;
    append(i);
  }
}

// A new file beside `path`, whose descriptor is closed in every case.
class TemporaryFile {
 public:
  // The mode is what the process's umask leaves of rw-rw-rw-.
  explicit TemporaryFile(const std::string& path) {
    static std::atomic<int> files = 0;  // threads that save to one path use files of their own
    do {
      name_ = path + "." + std::to_string(getpid()) + "-" + std::to_string(files++) + ".tmp";
      descriptor_ = open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      // One that is there is another process's of this pid, which was killed or runs in another PID namespace.
    } while (descriptor_ < 0 && errno == EEXIST);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  const char* name() const { return name_.c_str(); }
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
  std::string name_;
  int descriptor_;
};

}  // namespace

std::string write_patterns(const PatternSet& patterns) {
  const Legend legend = legend_of(patterns.heads);
  // A row is "abca" while the legend has letters for names, otherwise ["p0", "p1", "p2", "p0"].
  const bool letters = legend.entries.size() <= kLetters.size();
  std::vector<std::string> names;
  for (std::size_t i = 0; i < legend.entries.size(); ++i)
    names.push_back(letters ? std::string(1, kLetters[i]) : "\"p" + std::to_string(i) + '"');
  const char* const quote = letters ? "\"" : "";

  // Not a stream: streams keep to themselves that memory ran out.
  std::string text = "{\n  \"models\": [";
  join(text, std::ssize(patterns.models), ", ",
       [&](std::int64_t i) { text += json_string(patterns.models[i]); });
  text += "],\n  \"source\": " + json_string(patterns.source);
  text += ",\n  \"num_layers\": " + std::to_string(patterns.num_layers);
  text += ",\n  \"num_query_heads\": " + std::to_string(patterns.num_query_heads);
  text += ",\n  \"legend\": {\n    ";
  join(text, std::ssize(names), ",\n    ",
       [&](std::int64_t i) { text += quote + names[i] + quote + ": " + legend.entries[i]; });
  text += "\n  },\n  \"heads\": [\n    ";
  join(text, patterns.num_layers, ",\n    ", [&](std::int64_t layer) {
    text += letters ? '"' : '[';
    join(text, patterns.num_query_heads, letters ? "" : ", ",
         [&](std::int64_t head) { text += names[legend.of_head[layer * patterns.num_query_heads + head]]; });
    text += letters ? '"' : ']';
  });
  return text + "\n  ]\n}\n";
}

void save_patterns(const PatternSet& patterns, const std::string& path) {
  const std::string text = write_patterns(patterns);
  const auto fail = [&](const char* rule) {
    base::refuse(path + ":", rule, std::strerror(errno), base::ErrorCode::io);
  };
  TemporaryFile file(path);
  if (!file.is_open()) fail("must be in a folder that can be written");
  if (file.write_all(text) && std::rename(file.name(), path.c_str()) == 0) return;
  const int error = errno;
  unlink(file.name());
  errno = error;
  fail("must be a file that can be written");
}

}  // namespace minference::sparse
