// What must hold for every text offered as a head-pattern file: it is read or refused, without a crash.
//   read      the set is consistent, and writing and reading it gives it back
//   refused   with invalid_argument and a short message in printable ASCII that begins with the file's name
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

void check_set(const sparse::PatternSet& set) {
  check(set.num_layers >= 1 && set.num_query_heads >= 1, "an empty set", set.source);
  check(std::ssize(set.heads) == set.num_layers * set.num_query_heads, "not one pattern a head", set.source);
  for (const sparse::HeadPattern& head : set.heads) {
    check(head.size[0] >= 0 && head.size[1] >= 0 && head.last_dense_rows >= 0, "a negative size", set.source);
    check(head.share_ppm >= 1 && head.share_ppm <= 1000000, "a share outside (0, 1]", set.source);
  }
  const std::string written = sparse::write_patterns(set);
  check(sparse::parse_patterns(written, "written") == set, "a set that does not read back", written);
}

void check_refusal(const base::Error& error) {
  const std::string_view message = error.what();
  check(error.code() == base::ErrorCode::invalid_argument, "another error code", message);
  check(message.starts_with("p.json: "), "a message without the file's name", message);
  check(message.size() < 500, "a long message", message);
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  check(std::all_of(message.begin(), message.end(), printable), "a message beyond ASCII", message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check_set(sparse::parse_patterns({reinterpret_cast<const char*>(data), size}, "p.json"));
  } catch (const base::Error& error) {
    check_refusal(error);
  }
  return 0;
}
