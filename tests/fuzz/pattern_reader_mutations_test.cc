// The properties of pattern_reader_fuzz.cc on a fixed sequence of mutations of the corpus.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "sparse/pattern_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

// Pieces that mean something to a reader of JSON, or of numbers.
constexpr const char* kPieces[] = {"{",
                                   "}",
                                   "[",
                                   "]",
                                   ",",
                                   ":",
                                   "\"",
                                   "\\",
                                   "\\u0000",
                                   "\\ud800",
                                   "null",
                                   "true",
                                   "-1",
                                   "0",
                                   "1e999",
                                   "NaN",
                                   "2147483647",
                                   "4294967296",
                                   "18446744073709551616",
                                   "1.5",
                                   "\xff",
                                   "\n",
                                   "\xef\xbb\xbf",
                                   "\"a\"",
                                   "\"heads\":",
                                   "\"legend\":",
                                   "\"num_layers\":",
                                   "\"pattern\":",
                                   "\"dense\"",
                                   "\"adaptive\"",
                                   "\"share\":",
                                   "\"last_dense_rows\":",
                                   "\"0\":",
                                   "[[[[[["};

std::vector<std::string> read_corpus() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(CORPUS)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

bool is_read(const std::string& text) {
  try {
    minference::sparse::parse_patterns(text, "p.json");
    return true;
  } catch (const minference::base::Error&) {
    return false;
  }
}

class Mutator {
 public:
  explicit Mutator(std::vector<std::string> corpus) : corpus_(std::move(corpus)) {
    std::copy_if(corpus_.begin(), corpus_.end(), std::back_inserter(valid_), is_read);
  }

  std::string next() {
    // Half of them from valid files: mutations of a file that is refused are mostly refused where it is.
    std::string text = pick(below(2) == 0 ? valid_ : corpus_);
    for (std::size_t steps = 1 + below(3); steps > 0; --steps) mutate(text);
    return text;
  }

 private:
  std::size_t below(std::size_t end) { return random_() % end; }
  const std::string& pick(const std::vector<std::string>& texts) { return texts[below(texts.size())]; }

  void mutate(std::string& text) {
    const std::size_t at = below(text.size() + 1),
                      length = below(1 + std::min<std::size_t>(text.size() - at, 20));
    switch (below(6)) {
      case 0:
        text.erase(at, length);
        break;
      case 1:
        text.insert(at, text.substr(at, length));
        break;
      case 2:
        text.replace(at, length, kPieces[below(std::size(kPieces))]);
        break;
      case 3:
        text.insert(at, kPieces[below(std::size(kPieces))]);
        break;
      case 4:
        text.replace(at, length, pick(corpus_).substr(0, length));
        break;
      case 5:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
    }
  }

  std::vector<std::string> corpus_, valid_;
  std::mt19937_64 random_{2024};
};

TEST(PatternReader, MutatedFilesAreReadOrRefused) {
  const std::vector<std::string> corpus = read_corpus();
  ASSERT_GE(corpus.size(), 5u);
  Mutator mutator(corpus);
  constexpr int kMutations = 60000;
  int read = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string text = mutator.next();
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    read += is_read(text);
  }
  // Both outcomes must be common, or the mutations prove little.
  EXPECT_GT(read, kMutations / 100);
  EXPECT_LT(read, kMutations / 2);
}

}  // namespace
