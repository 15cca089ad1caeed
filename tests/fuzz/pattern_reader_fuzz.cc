// What must hold for every text offered as a head-pattern file: it is read or refused, without a crash.
//   read      the set is consistent, fits its own counts and no others, and writing and reading it gives it back
//   refused   with invalid_argument and a short message in printable ASCII that begins with the file's name
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "sparse/pattern_file.h"

namespace {

using namespace minference;

void check(bool holds, const char* what, std::string_view text) {
  if (holds) return;
  std::fprintf(stderr, "%s: %.*s\n", what, static_cast<int>(text.size()), text.data());
  std::abort();
}

// A file in memory, with a path to open it by.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("pattern_reader_fuzz", MFD_CLOEXEC)) {}
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(descriptor_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

  void hold(std::string_view text) {
    const auto size = static_cast<off_t>(text.size());
    check(ftruncate(descriptor_, size) == 0 && pwrite(descriptor_, text.data(), text.size(), 0) == size,
          "a memory file that cannot be written", path());
  }

 private:
  int descriptor_;
};

bool fits(const sparse::PatternSet& set, std::int64_t num_layers, std::int64_t num_query_heads) {
  try {
    sparse::check_fits(set, num_layers, num_query_heads, "p.json");
    return true;
  } catch (const base::Error&) {
    return false;
  }
}

void check_set(const sparse::PatternSet& set) {
  check(set.num_layers >= 1 && set.num_query_heads >= 1, "an empty set", set.source);
  check(std::ssize(set.heads) == set.num_layers * set.num_query_heads, "not one pattern a head", set.source);
  for (const sparse::HeadPattern& head : set.heads) {
    check(head.size[0] >= 0 && head.size[1] >= 0 && head.last_dense_rows >= 0, "a negative size", set.source);
    check(head.share_ppm >= 1 && head.share_ppm <= 1000000, "a share outside (0, 1]", set.source);
  }
  check(fits(set, set.num_layers, set.num_query_heads), "a set that does not fit itself", set.source);
  check(!fits(set, set.num_layers, set.num_query_heads + 1), "a set that fits another model", set.source);
  const std::string written = sparse::write_patterns(set);
  check(sparse::parse_patterns(written, "written") == set, "a set that does not read back", written);
}

void check_refusal(const base::Error& error, std::string_view file) {
  const std::string_view message = error.what();
  check(error.code() == base::ErrorCode::invalid_argument, "another error code", message);
  check(message.starts_with(std::string(file) + ": "), "a message without the file's name", message);
  check(message.size() < 500, "a long message", message);
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  check(std::all_of(message.begin(), message.end(), printable), "a message beyond ASCII", message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static MemoryFile file;
  file.hold({reinterpret_cast<const char*>(data), size});
  try {
    check_set(sparse::load_patterns(file.path()));
  } catch (const base::Error& error) {
    check_refusal(error, file.path());
  }
  return 0;
}
