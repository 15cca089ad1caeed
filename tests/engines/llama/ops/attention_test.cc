// What the plugin computes, against attention in f64 and against ggml's CPU backend.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "attention_graph.h"

namespace minference::ggml_test {
namespace {

// Query, probabilities and output are rounded to the type of keys and values, as they are by ggml.
double tolerance(ggml_type type) {
  return type == GGML_TYPE_F32 ? 2e-6 : type == GGML_TYPE_F16 ? 2e-3 : 1.5e-2;
}

void expect_right(const Case& c, const Result& result, std::int64_t step = 7) {
  EXPECT_TRUE(result.assigned_to_plugin);
  EXPECT_NE(result.log.find(" calls, "), std::string::npos) << "left to ggml: " << result.log;
  EXPECT_LE(worst_error(c, result.out, step), tolerance(c.type));
}

void expect_left_to_ggml(const Case& c) {
  const Result result = compute(c, On::plugin);
  EXPECT_TRUE(result.assigned_to_plugin);
  EXPECT_EQ(result.log.find(" calls, "), std::string::npos) << result.log;
  EXPECT_EQ(result.out, compute(c, On::cpu).out);
}

using Shape = std::tuple<ggml_type, std::int64_t, std::int64_t, std::int64_t>;

class EveryShape : public testing::TestWithParam<Shape> {};

TEST_P(EveryShape, IsRight) {
  const auto [type, head_dim, num_heads, num_kv_heads] = GetParam();
  // A chunk in the middle of a prompt, and cells after it that nobody has filled.
  const Case c{.type = type,
               .head_dim = head_dim,
               .num_heads = num_heads,
               .num_kv_heads = num_kv_heads,
               .num_rows = 211,
               .num_keys = 768,
               .attends = chunk(500)};
  expect_right(c, compute(c, On::plugin));
}

INSTANTIATE_TEST_SUITE_P(, EveryShape,
                         testing::Combine(testing::Values(GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32),
                                          testing::Values(64, 80, 128, 256), testing::Values(4, 8),
                                          testing::Values(1, 4)));

class EveryType : public testing::TestWithParam<ggml_type> {};

INSTANTIATE_TEST_SUITE_P(, EveryType, testing::Values(GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32));

TEST_P(EveryType, AWholePromptIsRight) {
  const Case c{.type = GetParam(), .num_rows = 512, .num_keys = 512, .attends = chunk(0)};
  expect_right(c, compute(c, On::plugin), 13);
}

TEST_P(EveryType, SeveralStreamsAreRight) {
  const Case c{
      .type = GetParam(), .num_rows = 150, .num_streams = 3, .attends = [](auto stream, auto row, auto key) {
        return key <= 100 * stream + row;
      }};
  expect_right(c, compute(c, On::plugin));
}

// Two slots of one cache: their chunks alternate in it, and in the batch there is a token of a third.
TEST_P(EveryType, SequencesInPiecesAreRight) {
  const Case c{
      .type = GetParam(), .num_rows = 301, .num_keys = 1024, .attends = [](auto, auto row, auto key) {
        if (row == 0) return key >= 900 && key < 951;
        if (row <= 150) return key < 100 || (key >= 200 && key < 300) || (key >= 400 && key < 400 + row);
        return (key >= 100 && key < 200) || (key >= 600 && key <= 600 + row - 151);
      }};
  expect_right(c, compute(c, On::plugin));
}

TEST_P(EveryType, SlidingWindowsAreRight) {
  for (const std::int64_t first : {0, 40, 300}) {
    const Case c{.type = GetParam(), .attends = [first](auto, auto row, auto key) {
                   return key <= first + row && key > first + row - 77;
                 }};
    expect_right(c, compute(c, On::plugin));
  }
}

TEST(Cells, OutOfOrderAreLeftToGgml) {
  // A ring of cells whose new ones come before old ones.
  expect_left_to_ggml(
      {.attends = [](auto, auto row, auto key) { return key <= row || (key >= 300 && key < 500); }});
  // Not causal.
  expect_left_to_ggml({.attends = [](auto, auto, auto key) { return key < 450; }});
  // In order in one stream, not in the other.
  expect_left_to_ggml({.num_streams = 2, .attends = [](auto stream, auto row, auto key) {
                         return stream == 0 ? key <= row : key <= row / 2;
                       }});
}

TEST(Threads, ChangeNothing) {
  const Case c{.num_rows = 300, .attends = chunk(200)};
  const Result one = compute(c, On::plugin, "dense", 1);
  EXPECT_EQ(one.out, compute(c, On::plugin, "dense", 2).out);
  EXPECT_EQ(one.out, compute(c, On::plugin, "dense", 3).out);
}

// ---- Head patterns ---------------------------------------------------------------------------------------------------

// A head-pattern file of three layers whose heads have a window that names the layer.
class PatternFile {
 public:
  explicit PatternFile(int num_heads) {
    std::ofstream file(path());
    file << "[";
    for (int layer = 0; layer < 3; ++layer) {
      file << (layer ? ",{" : "{");
      for (int head = 0; head < num_heads; ++head)
        file << (head ? "," : "") << "\"" << head << "\":[\"stream_llm\"," << kSink << "," << local(layer)
             << ",1.0]";
      file << "}";
    }
    file << "]";
  }
  ~PatternFile() { std::filesystem::remove(path()); }

  static constexpr int kSink = 5;
  static int local(int layer) { return 64 * (layer + 1) + 3; }
  std::string path() const { return testing::TempDir() + "ggml_head_patterns.json"; }
};

TEST_P(EveryType, PatternsOfAFileAreFollowedLayerByLayer) {
  const PatternFile file(4);
  for (const int layer : {0, 2}) {
    const Case c{
        .type = GetParam(), .num_rows = 400, .num_keys = 1024, .attends = chunk(600), .first_layer = layer};
    const Result result = compute(c, On::plugin, file.path());
    EXPECT_TRUE(result.assigned_to_plugin);
    const auto local = PatternFile::local(layer);
    EXPECT_LE(worst_error(c, result.out, 7,
                          [&](auto, auto row, auto key) {
                            return key < PatternFile::kSink || 600 + row - key < local;
                          }),
              tolerance(c.type));
  }
}

TEST(Patterns, OfAnotherModelAreReplaced) {
  const PatternFile file(8);
  const Case c{.attends = chunk(300), .first_layer = 0};
  const Result result = compute(c, On::plugin, file.path());
  EXPECT_NE(result.log.find("adaptive ones are used"), std::string::npos) << result.log;
  EXPECT_TRUE(result.assigned_to_plugin);
}

TEST(Patterns, ThatDoNotExistAreRefused) {
  EXPECT_THROW(compute({.attends = chunk(0)}, On::plugin, "no/such/file.json"), std::runtime_error);
  EXPECT_THROW(compute({.attends = chunk(0)}, On::plugin, "adaptive:1.5"), std::runtime_error);
}

TEST_P(EveryType, AdaptiveOnesSkipWhatHasNoMass) {
  const Case c{.type = GetParam(),
               .num_rows = 1024,
               .num_keys = 4096,
               .attends = chunk(4096 - 1024),
               .structured = true};
  const Result result = compute(c, On::plugin, "adaptive:0.98");
  double density = 0;
  const std::size_t begin = result.log.find("1 calls, ");
  ASSERT_NE(begin, std::string::npos) << result.log;
  ASSERT_EQ(std::sscanf(result.log.c_str() + begin, "1 calls, density %lf", &density), 1) << result.log;
  EXPECT_LT(density, 30);
  const Result dense = compute(c, On::cpu);
  EXPECT_LT(difference(result.out, dense.out), 0.1);
  // And not because it does not matter what is left out.
  EXPECT_GT(difference(compute({.type = c.type,
                                .num_rows = c.num_rows,
                                .num_keys = c.num_keys,
                                .attends = [](auto, auto row, auto key) { return key == 3072 + row; },
                                .structured = true},
                               On::cpu)
                           .out,
                       dense.out),
            0.3);
}

// A pass over three layers, then the next chunk's, whose mask lies in the same memory.
TEST(Masks, AreReadAgainInEveryPass) {
  const Case c{.attends = chunk(100), .first_layer = 0, .num_layers = 3, .then = chunk(300)};
  const Result result = compute(c, On::plugin);
  EXPECT_NE(result.log.find("6 calls"), std::string::npos) << result.log;
  expect_right(c, result);
}

TEST(Masks, OfAnOtherKindAfterAUsualOneAreLeftToGgml) {
  Case c{.attends = chunk(100), .first_layer = 0, .num_layers = 2, .then = [](auto, auto, auto key) {
           return key < 450;
         }};
  EXPECT_EQ(compute(c, On::plugin).out, compute(c, On::cpu).out);
}

}  // namespace
}  // namespace minference::ggml_test
