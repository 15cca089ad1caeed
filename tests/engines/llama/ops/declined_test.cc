// What the plugin leaves to ggml's CPU backend from the start.
#include <gtest/gtest.h>

#include "attention_graph.h"

namespace minference::ggml_test {
namespace {

Case usual() {
  return {.num_rows = 128, .attends = chunk(0)};
}

template <class Change>
Case changed(const Change& change) {
  Case c = usual();
  change(c);
  return c;
}

TEST(Supported, AreLongChunks) {
  EXPECT_TRUE(is_supported(usual()));
  // `-fa auto` asks about one token: claiming it would turn flash attention off.
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.num_rows = 1; })));
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.num_rows = 127; })));
}

TEST(Supported, AreUnquantisedCaches) {
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32})
    EXPECT_TRUE(is_supported(changed([&](Case& c) { c.type = type; })));
  for (const ggml_type type : {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0})
    EXPECT_FALSE(is_supported(changed([&](Case& c) { c.type = type; })));
}

TEST(Supported, IsPlainAttention) {
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.max_bias = 8; })));
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.soft_cap = 50; })));
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.sinks = true; })));
  EXPECT_FALSE(is_supported(changed([](Case& c) { c.head_dim = 320; })));
}

TEST(Declined, RunsOnTheCpuBackend) {
  Case c = usual();
  c.type = GGML_TYPE_Q8_0;
  const Result result = compute(c, On::plugin);
  EXPECT_FALSE(result.assigned_to_plugin);
  EXPECT_EQ(result.out, compute(c, On::cpu).out);
}

}  // namespace
}  // namespace minference::ggml_test
