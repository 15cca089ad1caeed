#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "sparse/pattern_file.h"

namespace minference::sparse {
namespace {

namespace fs = std::filesystem;

// A folder that goes away with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "patterns_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::int64_t num_files() const { return std::distance(fs::directory_iterator(path_), {}); }

 private:
  fs::path path_;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class Call>
std::string message_of(base::ErrorCode code, Call call) {
  try {
    call();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

std::string refusal(std::string_view text) {
  return message_of(base::ErrorCode::invalid_argument, [&] { parse_patterns(text, "p.json"); });
}

// Our format with one line replaced.
struct File {
  std::string models = R"(["org/model"])";
  std::string source = R"("a test")";
  std::string num_layers = "2";
  std::string num_query_heads = "3";
  std::string legend = R"({"a": {"pattern": "dense"}, "b": {"pattern": "a_shape", "sink": 4, "local": 8}})";
  std::string heads = R"(["aab", "bba"])";
  std::string more = "";

  std::string text() const {
    return R"({"models": )" + models + R"(, "source": )" + source + R"(, "num_layers": )" + num_layers +
           R"(, "num_query_heads": )" + num_query_heads + R"(, "legend": )" + legend + R"(, "heads": )" +
           heads + more + "}";
  }
};

std::string legend_refusal(const std::string& entry) {
  return refusal(File{.legend = R"({"a": )" + entry + R"(, "b": {"pattern": "dense"}})"}.text());
}

std::string minference_refusal(const std::string& entry) {
  return refusal(R"([{"0": )" + entry + "}]");
}

TEST(Patterns, ReadsEveryPatternOfOurFormat) {
  const PatternSet set = parse_patterns(File{.num_layers = "3",
                                             .num_query_heads = "2",
                                             .legend = R"({
      "d": {"pattern": "dense"},
      "A": {"pattern": "a_shape", "sink": 128, "local": 3968, "last_dense_rows": 64},
      "v": {"pattern": "vertical_slash", "vertical": 1000, "slash": 2147483647},
      "0": {"pattern": "block_sparse", "top_k": 0},
      "long name": {"pattern": "adaptive", "share": 0.9}})",
                                             .heads = R"(["dA", ["v", "0"], ["long name", "d"]])"}
                                            .text(),
                                        "p.json");
  EXPECT_EQ(set.models, std::vector<std::string>{"org/model"});
  EXPECT_EQ(set.source, "a test");
  EXPECT_EQ(set.num_layers, 3);
  EXPECT_EQ(set.num_query_heads, 2);
  const std::vector<HeadPattern> heads = {{.pattern = Pattern::dense},
                                          {Pattern::a_shape, {128, 3968}, 64},
                                          {Pattern::vertical_slash, {1000, 2147483647}},
                                          {Pattern::block_sparse, {0, 0}},
                                          {.pattern = Pattern::adaptive, .share_ppm = 900000},
                                          {.pattern = Pattern::dense}};
  EXPECT_EQ(set.heads, heads);
  EXPECT_EQ(set.at(1, 0), heads[2]);
}

TEST(Patterns, ModelsAndSourceMayBeLeftOut) {
  const PatternSet set = parse_patterns(
      R"({"num_layers": 1, "num_query_heads": 1, "legend": {"a": {"pattern": "dense"}}, "heads": ["a"]})",
      "p.json");
  EXPECT_TRUE(set.models.empty());
  EXPECT_EQ(set.source, "");
}

TEST(Patterns, AcceptsAByteOrderMark) {
  EXPECT_EQ(parse_patterns("\xef\xbb\xbf" + File{}.text(), "p.json"),
            parse_patterns(File{}.text(), "p.json"));
}

TEST(Patterns, ReadsMInferenceFormat) {
  const PatternSet set = parse_patterns(R"([
      {"0": ["vertical_and_slash", 1000, 6096, 336], "1": ["stream_llm", 100, 800, 0.98]},
      {"1": ["block_sparse", 100, 7, 1], "0": ["vertical_and_slash", 30, 800, 1.0]}])",
                                        "p.json");
  EXPECT_TRUE(set.models.empty());
  EXPECT_EQ(set.num_layers, 2);
  EXPECT_EQ(set.num_query_heads, 2);
  const std::vector<HeadPattern> heads = {{Pattern::vertical_slash, {1000, 6096}},
                                          {Pattern::a_shape, {100, 800}},
                                          {Pattern::vertical_slash, {30, 800}},
                                          {Pattern::block_sparse, {100, 0}}};
  EXPECT_EQ(set.heads, heads);
}

TEST(Patterns, RefusesBrokenJson) {
  EXPECT_EQ(refusal(""), "p.json: line 1, column 1: must be JSON, got the end of the text");
  EXPECT_EQ(refusal("{\n  \"models\": [],\n  oops}"), "p.json: line 3, column 3: must be JSON, got \"o\"");
  EXPECT_EQ(refusal("[{}"), "p.json: line 1, column 4: must be JSON, got the end of the text");
  EXPECT_EQ(refusal("{\"num_layers\": NaN}"), "p.json: line 1, column 16: must be JSON, got \"N\"");
  EXPECT_EQ(refusal("[1, -Infinity]"), "p.json: line 1, column 6: must be JSON, got \"I\"");
  EXPECT_EQ(refusal("[\"\xff\"]"), "p.json: line 1, column 3: must be JSON, got \"\\ufffd\"");
  EXPECT_EQ(refusal(std::string("[\0]", 3)), "p.json: line 1, column 2: must be JSON, got \"\\u0000\"");
  EXPECT_EQ(refusal("{} x"), "p.json: line 1, column 4: must be JSON, got \"x\"");
}

TEST(Patterns, RefusesWhatFollowsANul) {
  for (const std::string_view rest : {std::string_view("\0", 1), std::string_view("\0 junk {", 8)}) {
    EXPECT_EQ(refusal(File{}.text() + "\n " + std::string(rest)),
              "p.json: line 2, column 2: must be JSON, got \"\\u0000\"");
  }
}

TEST(Patterns, RefusesNumbersBeyondADouble) {
  const std::string rule = ": must have no number beyond the range of a double, got ";
  EXPECT_EQ(refusal("[\n  -1e999]"), "p.json: line 2, column 3" + rule + "-1e999");
  EXPECT_EQ(refusal("1e999"), "p.json: line 1, column 1" + rule + "1e999");
  EXPECT_EQ(refusal("[" + std::string(1000, '9') + "]"),
            "p.json: line 1, column 2" + rule + std::string(60, '9') + "...");
}

TEST(Patterns, RefusesRepeatedKeysAndDeepNesting) {
  EXPECT_EQ(refusal(File{.more = R"(, "heads": [])"}.text()),
            "p.json: line 1, column 1: must not repeat a key of an object, got \"heads\"");
  EXPECT_EQ(refusal("{\"legend\": {\n  \"a\": {\"sink\": 1, \"local\": {}, \"sink\": 2}}}"),
            "p.json: line 2, column 8: must not repeat a key of an object, got \"sink\"");
  EXPECT_EQ(refusal(R"([{"0": ["vertical_and_slash", 1, 1, 1], "0": ["vertical_and_slash", 1, 1, 1]}])"),
            "p.json: line 1, column 2: must not repeat a key of an object, got \"0\"");
  EXPECT_EQ(refusal("[[1],\n[[[ {}]]]]"), "p.json: line 2, column 5: must nest at most 4 deep, got more");
  EXPECT_EQ(refusal(std::string(1000000, '[')),
            "p.json: line 1, column 5: must nest at most 4 deep, got more");
}

TEST(Patterns, RefusesWrongShapes) {
  EXPECT_EQ(refusal("3"), "p.json: must be an object, or an array in MInference 1.0's format, got 3");
  EXPECT_EQ(refusal("null"), "p.json: must be an object, or an array in MInference 1.0's format, got null");
  EXPECT_EQ(refusal("{}"), "p.json: must have a field \"num_layers\", got none");
  EXPECT_EQ(refusal(File{.more = R"(, "version": 2)"}.text()),
            "p.json: must have no unknown field, got \"version\"");
  EXPECT_EQ(refusal(File{.models = R"("org/model")"}.text()),
            "p.json: models: must be an array, got \"org/model\"");
  EXPECT_EQ(refusal(File{.models = "[7]"}.text()), "p.json: models[0]: must be a string, got 7");
  EXPECT_EQ(refusal(File{.source = "[]"}.text()), "p.json: source: must be a string, got []");
  EXPECT_EQ(refusal(File{.num_layers = "0"}.text()),
            "p.json: num_layers: must be an integer from 1 to 1048576, got 0");
  EXPECT_EQ(refusal(File{.num_layers = "\"2\""}.text()),
            "p.json: num_layers: must be an integer from 1 to 1048576, got \"2\"");
  EXPECT_EQ(refusal(File{.num_query_heads = "3.0"}.text()),
            "p.json: num_query_heads: must be an integer from 1 to 1048576, got 3.0");
  EXPECT_EQ(refusal(File{.legend = "[]"}.text()), "p.json: legend: must be an object, got []");
  EXPECT_EQ(refusal(File{.legend = "{}"}.text()), "p.json: heads[0]: must be in the legend, got \"a\"");
  EXPECT_EQ(refusal(File{.heads = "{}"}.text()), "p.json: heads: must be an array, got {}");
  EXPECT_EQ(refusal(File{.heads = R"(["aab"])"}.text()), "p.json: heads: must have 2 rows, got 1");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", "aa"])"}.text()),
            "p.json: heads[1]: must have 3 letters, got 2");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", "abc"])"}.text()),
            "p.json: heads[1]: must be in the legend, got \"c\"");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", "a\u00e9"])"}.text()),
            "p.json: heads[1]: must be in the legend, got \"\\ufffd\"");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", 7])"}.text()),
            "p.json: heads[1]: must be a string of legend letters or an array of legend names, got 7");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", ["a", "b"]])"}.text()),
            "p.json: heads[1]: must have 3 names, got 2");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", ["a", "b", 1]])"}.text()),
            "p.json: heads[1][2]: must be a string, got 1");
  EXPECT_EQ(refusal(File{.heads = R"(["aab", ["a", "b", "no"]])"}.text()),
            "p.json: heads[1][2]: must be in the legend, got \"no\"");
}

TEST(Patterns, RefusesWrongLegendEntries) {
  const std::string budget = "must be an integer from 0 to 2147483647, got ";
  EXPECT_EQ(legend_refusal("7"), "p.json: legend.a: must be an object, got 7");
  EXPECT_EQ(legend_refusal("{}"), "p.json: legend.a: must have a field \"pattern\", got none");
  EXPECT_EQ(legend_refusal(R"({"pattern": 1})"), "p.json: legend.a.pattern: must be a string, got 1");
  EXPECT_EQ(
      legend_refusal(R"({"pattern": "streaming"})"),
      "p.json: legend.a.pattern: must be one of dense, a_shape, vertical_slash, block_sparse, adaptive, got "
      "\"streaming\"");
  EXPECT_EQ(legend_refusal(R"({"pattern": "dense", "vertical": 3})"),
            "p.json: legend.a: must have no unknown field, got \"vertical\"");
  EXPECT_EQ(legend_refusal(R"({"pattern": "vertical_slash", "vertical": 3})"),
            "p.json: legend.a: must have a field \"slash\", got none");
  EXPECT_EQ(legend_refusal(R"({"pattern": "vertical_slash", "vertical": 3, "slash": -1})"),
            "p.json: legend.a.slash: " + budget + "-1");
  EXPECT_EQ(legend_refusal(R"({"pattern": "vertical_slash", "vertical": 2147483648, "slash": 1})"),
            "p.json: legend.a.vertical: " + budget + "2147483648");
  EXPECT_EQ(legend_refusal(R"({"pattern": "block_sparse", "top_k": 18446744073709551615})"),
            "p.json: legend.a.top_k: " + budget + "18446744073709551615");
  EXPECT_EQ(legend_refusal(R"({"pattern": "block_sparse", "top_k": 100000000000000000000})"),
            "p.json: legend.a.top_k: " + budget + "1e+20");
  EXPECT_EQ(legend_refusal(R"({"pattern": "a_shape", "sink": 1.5, "local": 1})"),
            "p.json: legend.a.sink: " + budget + "1.5");
  EXPECT_EQ(legend_refusal(R"({"pattern": "a_shape", "sink": null, "local": 1})"),
            "p.json: legend.a.sink: " + budget + "null");
  EXPECT_EQ(legend_refusal(R"({"pattern": "dense", "last_dense_rows": -64})"),
            "p.json: legend.a.last_dense_rows: " + budget + "-64");
  EXPECT_EQ(legend_refusal(R"({"pattern": "adaptive"})"),
            "p.json: legend.a: must have a field \"share\", got none");
  EXPECT_EQ(legend_refusal(R"({"pattern": "adaptive", "share": 95})"),
            "p.json: legend.a.share: must be a number from 0.000001 to 1, got 95");
  EXPECT_EQ(legend_refusal(R"({"pattern": "adaptive", "share": 0})"),
            "p.json: legend.a.share: must be a number from 0.000001 to 1, got 0");
  EXPECT_EQ(legend_refusal(R"({"pattern": "adaptive", "share": "all"})"),
            "p.json: legend.a.share: must be a number, got \"all\"");
}

TEST(Patterns, RefusesWrongMInferenceFiles) {
  EXPECT_EQ(refusal("[]"), "p.json: layers: must have a layer with a query head, got []");
  EXPECT_EQ(refusal("[{}, {}]"), "p.json: layers: must have a layer with a query head, got [{},{}]");
  EXPECT_EQ(refusal("[3]"), "p.json: layers[0]: must be an object, got 3");
  EXPECT_EQ(refusal(R"([{"first": []}])"),
            "p.json: layers[0]: must have query heads 0 to 1048575 as keys, got \"first\"");
  EXPECT_EQ(refusal(R"([{"00": []}])"),
            "p.json: layers[0]: must have query heads 0 to 1048575 as keys, got \"00\"");
  EXPECT_EQ(refusal(R"([{"-1": []}])"),
            "p.json: layers[0]: must have query heads 0 to 1048575 as keys, got \"-1\"");
  EXPECT_EQ(refusal(R"([{"1048576": []}])"),
            "p.json: layers[0]: must have query heads 0 to 1048575 as keys, got \"1048576\"");
  const std::string entry = R"(["vertical_and_slash", 30, 800, 1])";
  EXPECT_EQ(refusal(R"([{"0": )" + entry + R"(, "1": )" + entry + R"(}, {"1": )" + entry + "}]"),
            "p.json: layers[1]: must have an entry for query head 0, got none");
  EXPECT_EQ(refusal(R"([{"0": )" + entry + R"(}, {"0": )" + entry + R"(, "2": )" + entry + "}]"),
            "p.json: layers[0]: must have an entry for query head 1, got none");
  EXPECT_EQ(refusal(R"([{"0": )" + entry + "}, {}]"),
            "p.json: layers[1]: must have an entry for query head 0, got none");
  EXPECT_EQ(minference_refusal("{}"), "p.json: layers[0].0: must be an array, got {}");
  EXPECT_EQ(minference_refusal(R"(["vertical_and_slash", 30, 800])"),
            "p.json: layers[0].0: must be [pattern, size, size, score], got [\"vertical_and_slash\",30,800]");
  EXPECT_EQ(minference_refusal(R"([3, 30, 800, 1])"), "p.json: layers[0].0[0]: must be a string, got 3");
  EXPECT_EQ(minference_refusal(R"(["vertical_slash", 30, 800, 1])"),
            "p.json: layers[0].0[0]: must be one of vertical_and_slash, stream_llm, block_sparse, got "
            "\"vertical_slash\"");
  EXPECT_EQ(minference_refusal(R"(["stream_llm", 30, -800, 1])"),
            "p.json: layers[0].0[2]: must be an integer from 0 to 2147483647, got -800");
  EXPECT_EQ(minference_refusal(R"(["stream_llm", 30, 800, "good"])"),
            "p.json: layers[0].0[3]: must be a number, got \"good\"");
}

TEST(Patterns, UnusualLegendNamesAreQuoted) {
  EXPECT_EQ(refusal(File{.legend = R"({"\u00e9 \n": 7})"}.text()),
            "p.json: legend.\"\\u00e9 \\n\": must be an object, got 7");
  EXPECT_EQ(refusal(File{.legend = R"({"": 7})"}.text()), "p.json: legend.\"\": must be an object, got 7");
}

TEST(Patterns, LongValuesAreShownInPart) {
  const std::string message = refusal(File{.source = "[\"" + std::string(10000, 'x') + "\"]"}.text());
  EXPECT_EQ(message, "p.json: source: must be a string, got [\"" + std::string(58, 'x') + "...");
}

// ---- Writing ----------------------------------------------------------------------------------------------

PatternSet random_set(std::mt19937& random, std::int64_t distinct) {
  PatternSet set{.models = {"org/a \"quoted\" model", "org/b\\\n"},
                 .source = "caf\xc3\xa9",
                 .num_layers = static_cast<std::int64_t>(1 + random() % 5),
                 .num_query_heads = static_cast<std::int64_t>(1 + random() % 40),
                 .heads = {}};
  std::vector<HeadPattern> pool;
  for (std::int64_t i = 0; i < distinct; ++i) {
    HeadPattern head{.pattern = static_cast<Pattern>(random() % 5)};
    const int sizes = head.pattern == Pattern::a_shape || head.pattern == Pattern::vertical_slash ? 2
                      : head.pattern == Pattern::block_sparse                                     ? 1
                                                                                                  : 0;
    for (int s = 0; s < sizes; ++s) head.size[s] = static_cast<std::int32_t>(random() >> (1 + random() % 31));
    if (random() % 3 == 0) head.last_dense_rows = static_cast<std::int32_t>(random() % 200);
    if (head.pattern == Pattern::adaptive) head.share_ppm = static_cast<std::int32_t>(1 + random() % 1000000);
    pool.push_back(head);
  }
  for (std::int64_t i = 0; i < set.num_layers * set.num_query_heads; ++i)
    set.heads.push_back(pool[random() % distinct]);
  return set;
}

TEST(Patterns, WrittenSetsReadBackEqual) {
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    // Up to 62 distinct patterns have letters; more have names.
    const PatternSet set = random_set(random, 1 + random() % (i % 2 ? 10 : 150));
    ASSERT_EQ(parse_patterns(write_patterns(set), "p.json"), set) << write_patterns(set);
  }
}

TEST(Patterns, SourcesThatAreNotUtf8AreWrittenAsJson) {
  std::mt19937 random(7);
  PatternSet set = random_set(random, 3);
  set.source = "caf\xe9";
  EXPECT_EQ(parse_patterns(write_patterns(set), "p.json").source, "caf\xef\xbf\xbd");
}

TEST(Patterns, SaveReplacesTheWholeFile) {
  const Folder folder;
  const std::string path = folder.file("p.json");
  std::ofstream(path) << "old";
  const PatternSet set = parse_patterns(File{}.text(), "p.json");
  save_patterns(set, path);
  EXPECT_EQ(read_file(path), write_patterns(set));
  EXPECT_EQ(load_patterns(path), set);
  EXPECT_EQ(folder.num_files(), 1) << "the temporary file must be gone";
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(fs::status(path).permissions(), static_cast<fs::perms>(0666 & ~mask));
}

TEST(Patterns, SavePassesOverTemporaryFilesOfAKilledProcess) {
  const Folder folder;
  const std::string path = folder.file("p.json");
  constexpr int kSaves = 1000;  // more than this process has made
  for (int i = 0; i < kSaves; ++i)
    std::ofstream(path + "." + std::to_string(getpid()) + "-" + std::to_string(i) + ".tmp") << "half";
  const PatternSet set = parse_patterns(File{}.text(), "p.json");
  save_patterns(set, path);
  EXPECT_EQ(load_patterns(path), set);
  EXPECT_EQ(folder.num_files(), kSaves + 1) << "only the save's own temporary file is gone";
}

TEST(Patterns, FilesThatCannotBeReadOrWrittenAreNamed) {
  const Folder folder;
  const PatternSet set = parse_patterns(File{}.text(), "p.json");
  const std::string missing = folder.file("none/p.json"), here = folder.file("");
  EXPECT_EQ(message_of(base::ErrorCode::io, [&] { load_patterns(missing); }),
            missing + ": must be a readable file, got No such file or directory");
  EXPECT_EQ(message_of(base::ErrorCode::io, [&] { load_patterns(here); }),
            here + ": must be a readable file, got Is a directory");
  EXPECT_EQ(message_of(base::ErrorCode::io, [&] { save_patterns(set, missing); }),
            missing + ": must be in a folder that can be written, got No such file or directory");
  fs::create_directory(folder.file("taken"));
  EXPECT_EQ(message_of(base::ErrorCode::io, [&] { save_patterns(set, folder.file("taken")); }),
            folder.file("taken") + ": must be a file that can be written, got Is a directory");
  EXPECT_EQ(folder.num_files(), 1) << "the temporary file must be gone";
}

TEST(Patterns, EndlessFilesAreRefused) {
  EXPECT_EQ(message_of(base::ErrorCode::invalid_argument, [] { load_patterns("/dev/zero"); }),
            "/dev/zero: must have at most 64 MiB, got more");
}

TEST(Patterns, TextsHaveTheLimitOfFiles) {
  std::string text = File{}.text();
  text.resize(64 << 20, ' ');
  EXPECT_EQ(parse_patterns(text, "p.json").num_layers, 2);
  EXPECT_EQ(refusal(text + ' '), "p.json: must have at most 64 MiB, got more");
}

// ---- Fit and built-in sets
// ------------------------------------------------------------------------------------------

TEST(Patterns, CheckFitsNamesBothCounts) {
  const PatternSet set = parse_patterns(File{}.text(), "p.json");
  check_fits(set, 2, 3, "patterns");
  EXPECT_EQ(message_of(base::ErrorCode::invalid_argument, [&] { check_fits(set, 32, 3, "patterns"); }),
            "patterns must have the model's 32 layers of 3 query heads, got 2 layers of 3 query heads");
  EXPECT_EQ(message_of(base::ErrorCode::invalid_argument, [&] { check_fits(set, 2, 4, "patterns"); }),
            "patterns must have the model's 2 layers of 4 query heads, got 2 layers of 3 query heads");
}

TEST(Patterns, BuiltinFilesAreInTheFormThatWritePatternsGives) {
  ASSERT_FALSE(builtin_patterns().empty());
  std::set<std::string> models;
  for (const auto& [file, text] : builtin_patterns()) {
    const PatternSet set = parse_patterns(text, file);
    EXPECT_EQ(write_patterns(set), text) << file;
    EXPECT_FALSE(set.models.empty()) << file;
    for (const auto& model : set.models)
      EXPECT_TRUE(models.insert(model).second) << model << " has two built-in sets";
  }
}

TEST(Patterns, BuiltinSetsAreFoundByHubId) {
  const std::vector<std::string> models = supported_models();
  EXPECT_TRUE(std::is_sorted(models.begin(), models.end()));
  EXPECT_GE(models.size(), 10u);
  for (const auto& model : models) {
    const auto set = builtin_patterns_of(model);
    EXPECT_NE(std::find(set.models.begin(), set.models.end(), model), set.models.end());
  }
  const PatternSet llama = builtin_patterns_of("meta-llama/Llama-3.1-8B-Instruct");
  check_fits(llama, 32, 32, "llama");
  EXPECT_EQ(llama.at(0, 0), (HeadPattern{Pattern::vertical_slash, {1000, 6096}}));
  EXPECT_EQ(
      std::count(llama.heads.begin(), llama.heads.end(), HeadPattern{Pattern::vertical_slash, {100, 800}}),
      319);
  const PatternSet phi = builtin_patterns_of("microsoft/Phi-3-mini-128k-instruct");
  EXPECT_EQ(std::count(phi.heads.begin(), phi.heads.end(), HeadPattern{Pattern::a_shape, {100, 800}}), 43);
  const std::string message = message_of(base::ErrorCode::invalid_argument,
                                         [] { builtin_patterns_of("meta-llama/llama-3.1-8b-instruct"); });
  EXPECT_TRUE(message.starts_with("model must be one of 01-ai/Yi-9B-200K, Qwen/Qwen2-7B-Instruct, "))
      << message;
  EXPECT_TRUE(message.ends_with(", got meta-llama/llama-3.1-8b-instruct")) << message;
}

}  // namespace
}  // namespace minference::sparse
