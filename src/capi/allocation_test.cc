// Memory that runs out at any moment of any call: the call says so, and the next one finds everything in order.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <tuple>
#include <vector>

#include "capi/testing.h"

namespace {

// Allocations that still succeed, the library's and those of its threads; negative: all do.
std::atomic<std::int64_t> remaining{-1};

bool exhausted() {
  std::int64_t left = remaining.load();
  while (left > 0 && !remaining.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0;
}

void* allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  void* memory = nullptr;
  if (exhausted() || posix_memalign(&memory, alignment, std::max<std::size_t>(size, 1)) != 0)
    throw std::bad_alloc();
  return memory;
}

}  // namespace

// The library's calls of these come here as well.
void* operator new(std::size_t size) {
  return allocate(size);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
// std::stable_sort's buffer. AddressSanitizer's own would not go with the operator delete below.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return allocate(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
#ifndef __SANITIZE_ADDRESS__  // has its own
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) {
  void* memory = nullptr;
  return exhausted() || posix_memalign(&memory, alignment, size) != 0 ? nullptr : memory;
}
#endif

namespace minference::capi {
namespace {

// Calls with room for no allocation, for one (or `step`), for two and so on, until it succeeds. Returns the room that it
// needed.
int try_with_little_memory(const std::function<minference_status()>& call, int step = 1) {
  for (int room = 0;; room += step) {
    remaining = room;
    const minference_status status = call();
    remaining = -1;
    if (status == MINFERENCE_OK) return room;
    EXPECT_EQ(status, MINFERENCE_OUT_OF_MEMORY) << minference_last_error() << ", with room for " << room;
    if (::testing::Test::HasFailure() || room >= 100000) return room;
  }
}

// A layer in bf16, which the instruction sets' own kernels take.
class Bf16Layer {
 public:
  explicit Bf16Layer(std::int64_t length) : length_(length) {
    for (auto* data : {&query_, &key_, &value_}) {
      data->resize(static_cast<std::size_t>(4 * length * 64));
      std::uint32_t state = 1;
      for (std::uint16_t& x : *data) {
        state = state * 1664525 + 1013904223;
        x = static_cast<std::uint16_t>(0x3f00 | (state >> 31 << 15) |
                                       (state >> 8 & 0x7f));  // 0.5 to 1, either sign
      }
    }
    out_.resize(query_.size());
  }

  minference_prefill_args args(const std::vector<minference_head_pattern>& heads) {
    return {.struct_size = sizeof(minference_prefill_args),
            .query = tensor(query_, 4),
            .key = tensor(key_, 2),
            .value = tensor(value_, 2),
            .out = tensor(out_, 4),
            .heads = heads.data(),
            .num_heads = 4};
  }

  std::vector<std::uint16_t>& out() { return out_; }

 private:
  minference_tensor tensor(std::vector<std::uint16_t>& data, std::int64_t heads) const {
    return {data.data(), {1, heads, length_, 64}, {0, length_ * 64, 64, 1}, MINFERENCE_BF16, 0};
  }

  std::int64_t length_;
  std::vector<std::uint16_t> query_, key_, value_, out_;
};

TEST(LittleMemory, PrefillFailsWholeAndThenWorks) {
  Bf16Layer layer(1000);
  const std::vector<minference_head_pattern> heads = {{MINFERENCE_VERTICAL_SLASH, {100, 200}},
                                                      {MINFERENCE_ADAPTIVE, {0, 0}, 0, 900000},
                                                      {MINFERENCE_BLOCK_SPARSE, {3, 0}},
                                                      {MINFERENCE_A_SHAPE, {4, 100}, 64, 0}};
  minference_prefill_args args = layer.args(heads);
  args.fallback = MINFERENCE_FALLBACK_OFF;
  ASSERT_EQ(minference_prefill(testing::context().get(), &args, nullptr), MINFERENCE_OK)
      << minference_last_error();
  const auto expected = layer.out();

  // A context of its own, whose threads have yet to start; then one call after the other on the same context.
  minference_context* context = nullptr;
  const minference_context_options options{.struct_size = sizeof options, .num_threads = 2};
  EXPECT_GT(try_with_little_memory([&] { return minference_context_create(&options, &context); }), 0);
  const std::vector<std::uint16_t> blank(expected.size(), 0xffff);
  std::vector<double> density(4, -1);
  std::vector<std::int32_t> fallback(4, -1);
  minference_statistics statistics{.struct_size = sizeof statistics,
                                   .pairs = -1,
                                   .head_density = density.data(),
                                   .head_fallback = fallback.data()};
  const int failures = try_with_little_memory([&] {
    std::copy(blank.begin(), blank.end(), layer.out().begin());
    const minference_status status = minference_prefill(context, &args, &statistics);
    const auto all_are = [](const auto& values, auto value) {
      return std::count(values.begin(), values.end(), value) == std::ssize(values);
    };
    const bool written =
        layer.out() != blank || statistics.pairs != -1 || !all_are(density, -1.0) || !all_are(fallback, -1);
    return status != MINFERENCE_OK && written ? MINFERENCE_INTERNAL : status;
  });
  EXPECT_GT(failures, 10);
  EXPECT_EQ(layer.out(), expected);
  EXPECT_GT(*std::min_element(density.begin(), density.end()), 0.0);
  EXPECT_EQ(fallback, std::vector<std::int32_t>(4, 0));
  minference_context_destroy(context);
}

TEST(LittleMemory, SoDoesEveryOtherCall) {
  testing::Layer layer(
      {.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 200, .kv_len = 300, .head_dim = 64});
  layer.set_heads({MINFERENCE_VERTICAL_SLASH, {50, 150}});
  const auto context = testing::context();
  const auto& [query, key, value] = std::tie(layer.args.query, layer.args.key, layer.args.value);

  minference_patterns* patterns = nullptr;
  EXPECT_GT(try_with_little_memory(
                [&] { return minference_patterns_create(1, 4, layer.heads.data(), "a test", &patterns); }),
            0);
  minference_patterns_destroy(patterns);

  std::vector<float> sums(2 * 4 * 300);
  const auto half = [&](int i) {
    return minference_tensor{sums.data() + i * 1200, {1, 4, 1, 300}, {0, 300, 300, 1}, MINFERENCE_F32, 0};
  };
  const minference_estimate_args estimate{.struct_size = sizeof estimate,
                                          .query = query,
                                          .key = key,
                                          .column_sums = half(0),
                                          .diagonal_sums = half(1)};
  EXPECT_GT(try_with_little_memory([&] { return minference_estimate(context.get(), &estimate); }), 0);

  std::vector<std::int32_t> members(2 * 4 * 300);
  std::vector<std::int64_t> counts(8);
  const minference_select_args select{.struct_size = sizeof select,
                                      .column_sums = half(0),
                                      .diagonal_sums = half(1),
                                      .heads = layer.heads.data(),
                                      .num_heads = 4,
                                      .columns = members.data(),
                                      .column_capacity = 300,
                                      .column_counts = counts.data(),
                                      .offsets = members.data() + 1200,
                                      .offset_capacity = 300,
                                      .offset_counts = counts.data() + 4};
  EXPECT_GT(try_with_little_memory([&] { return minference_select(context.get(), &select); }), 0);

  minference_index* index = nullptr;
  const minference_index_args create{
      .struct_size = sizeof create, .query = query, .key = key, .heads = layer.heads.data(), .num_heads = 4};
  EXPECT_GT(try_with_little_memory([&] { return minference_index_create(context.get(), &create, &index); }),
            0);
  minference_attention_args attention{
      .struct_size = sizeof attention, .query = query, .key = key, .value = value, .index = index};
  const auto result = testing::blank_result(layer, attention.out, attention.lse);
  EXPECT_GT(try_with_little_memory([&] { return minference_attention(context.get(), &attention); }), 0);
  minference_index_destroy(index);

  std::vector<minference_score> scores(4);
  const minference_score_patterns_args score{.struct_size = sizeof score,
                                             .query = query,
                                             .key = key,
                                             .value = value,
                                             .candidates = layer.heads.data(),
                                             .num_candidates = 1};
  EXPECT_GT(
      try_with_little_memory([&] { return minference_score_patterns(context.get(), &score, scores.data()); }),
      0);
  std::vector<minference_head_pattern> fitted(4);
  const std::int32_t free_size = 0;
  const minference_fit_args fit{.struct_size = sizeof fit,
                                .query = query,
                                .key = key,
                                .candidates = layer.heads.data(),
                                .free_size = &free_size,
                                .num_candidates = 1,
                                .cost = 0.5};
  EXPECT_GT(
      try_with_little_memory([&] { return minference_fit_patterns(context.get(), &fit, fitted.data()); }), 0);
}

class TemporaryFile {
 public:
  TemporaryFile() { close(mkstemp(path_)); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { unlink(path_); }

  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/allocation_test.XXXXXX";
};

TEST(LittleMemory, PatternsAreReadAndWrittenWholeOrNotAtAll) {
  const std::string ours = R"({
  "models": ["org/a model with a long name", "org/another model with a long name"],
  "source": "a test of what happens without memory",
  "num_layers": 2,
  "num_query_heads": 3,
  "legend": {
    "a": {"pattern": "vertical_slash", "vertical": 1000, "slash": 6096},
    "b": {"pattern": "adaptive", "share": 0.9}
  },
  "heads": [
    "aab",
    "bba"
  ]
}
)";
  const std::string minference =
      R"([{"0": ["vertical_and_slash", 1000, 6096, 1.5], "1": ["stream_llm", 4, 8, -1]},
                                     {"0": ["block_sparse", 100, 800, 0], "1": ["stream_llm", 4, 8, 1]}])";
  const TemporaryFile file;
  minference_patterns* patterns = nullptr;
  const auto json = [&] {
    const char* text = nullptr;
    EXPECT_EQ(minference_patterns_json(patterns, &text), MINFERENCE_OK);
    return std::string(text);
  };

  EXPECT_GT(try_with_little_memory(
                [&] { return minference_patterns_parse(ours.data(), ours.size(), "p.json", &patterns); }),
            10);
  EXPECT_EQ(json(), ours);
  EXPECT_GT(try_with_little_memory([&] { return minference_patterns_save(patterns, file.path()); }), 10);
  minference_patterns_destroy(patterns);
  EXPECT_GT(try_with_little_memory([&] { return minference_patterns_load(file.path(), &patterns); }), 10);
  EXPECT_EQ(json(), ours);
  minference_patterns_destroy(patterns);

  EXPECT_GT(try_with_little_memory([&] {
              return minference_patterns_parse(minference.data(), minference.size(), "p.json", &patterns);
            }),
            10);
  EXPECT_EQ(minference_patterns_num_layers(patterns), 2);
  minference_patterns_destroy(patterns);

  // The first call parses all sets that are compiled in: thousands of allocations.
  const auto builtin = [&] {
    return minference_patterns_builtin("meta-llama/Llama-3.1-8B-Instruct", &patterns);
  };
  EXPECT_GT(try_with_little_memory(builtin, 97), 1000);
  EXPECT_EQ(minference_patterns_num_layers(patterns), 32);
  minference_patterns_destroy(patterns);
}

TEST(LittleMemory, ManyHeadsTakeFewAllocations) {
  constexpr int kHeads = 100000;
  std::string heads;
  for (int h = 0; h < kHeads; ++h) heads += "ab"[h % 2];
  const std::string text =
      R"({"num_layers": 1, "num_query_heads": )" + std::to_string(kHeads) +
      R"(, "legend": {"a": {"pattern": "dense"}, "b": {"pattern": "adaptive", "share": 0.9}}, "heads": [")" +
      heads + R"("]})";
  minference_patterns* patterns = nullptr;
  remaining = 1000;
  const minference_status status = minference_patterns_parse(text.data(), text.size(), "p.json", &patterns);
  remaining = -1;
  EXPECT_EQ(status, MINFERENCE_OK) << minference_last_error();
  const char* json = "";
  minference_patterns_json(patterns, &json);
  EXPECT_NE(std::strstr(json, heads.c_str()), nullptr);
  minference_patterns_destroy(patterns);
}

// A text that is refused is refused, or memory runs out first.
TEST(LittleMemory, SoAreFilesThatAreRefused) {
  for (const std::string text :
       {R"({"source": [1, {"a": [null, true, -2, 3.5]}, "long enough to be allocated"]})",
        R"([{"0": ["vertical_and_slash", 1000, 6096, 1.5]}, {"0": [[]]}])",
        R"({"models": ["a name that is long enough to be allocated", oops)",
        R"({"a name that is long enough to be allocated": 1,
                                     "a name that is long enough to be allocated": 2})"}) {
    int refusals = 0, failures = 0;
    for (int room = 0; refusals == 0 && room < 100000; ++room) {
      minference_patterns* patterns = nullptr;
      remaining = room;
      const minference_status status =
          minference_patterns_parse(text.data(), text.size(), "p.json", &patterns);
      remaining = -1;
      ASSERT_EQ(patterns, nullptr);
      ASSERT_TRUE(status == MINFERENCE_INVALID_ARGUMENT || status == MINFERENCE_OUT_OF_MEMORY)
          << status << ": " << minference_last_error();
      (status == MINFERENCE_OUT_OF_MEMORY ? failures : refusals) += 1;
    }
    EXPECT_EQ(refusals, 1) << text;
    EXPECT_GT(failures, 5) << text;
  }
}

}  // namespace
}  // namespace minference::capi
