// Every argument of the C ABI is checked: one wrong value, one message that names it.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>

#include "base/executor.h"
#include "capi/testing.h"

namespace minference::capi {
namespace {

using testing::Layer;
using testing::run;

struct Refusal {
  std::function<void(minference_prefill_args&)> spoil;
  minference_status status;
  std::string message;
};

TEST(Refusals, PrefillNamesArgumentRuleAndValue) {
  static const minference_sequence outside{0, 10, 60, 0, 64},
      overlapping[2] = {{0, 0, 40, 0, 64}, {0, 30, 10, 0, 64}};
  static minference_head_pattern negative[2] = {{MINFERENCE_A_SHAPE, {4, -1}}, {}},
                                 unknown[2] = {{}, {9, {0, 0}}},
                                 share[2] = {{MINFERENCE_ADAPTIVE, {0, 0}, 0, 1000001}, {}},
                                 slash[2] = {{}, {MINFERENCE_VERTICAL_SLASH, {1, 1}}};
  const std::vector<Refusal> cases = {
      {[](auto& a) { a.struct_size = 8; }, MINFERENCE_INVALID_ARGUMENT, "args.struct_size must be "},
      {[](auto& a) { a.query.dtype = MINFERENCE_I32; }, MINFERENCE_INVALID_ARGUMENT, "query.dtype must be "},
      {[](auto& a) { a.query.device = 1; }, MINFERENCE_UNSUPPORTED,
       "query.device must be 0 (host memory), got 1"},
      {[](auto& a) { a.query.data = nullptr; }, MINFERENCE_INVALID_ARGUMENT,
       "query.data must not be NULL, got NULL"},
      {[](auto& a) { a.query.data = static_cast<char*>(a.query.data) + 1; }, MINFERENCE_INVALID_ARGUMENT,
       "query.data must be aligned"},
      {[](auto& a) { a.query.shape[3] = 12; }, MINFERENCE_UNSUPPORTED,
       "query.shape[3] must be a multiple of 8 from 8 to 256 (head_dim), got 12"},
      {[](auto& a) { a.query.shape[2] = -5; }, MINFERENCE_INVALID_ARGUMENT,
       "query.shape[2] must be >= 0, got -5"},
      {[](auto& a) { a.query.stride[3] = 2; }, MINFERENCE_INVALID_ARGUMENT, "query.stride[3] must be 1"},
      {[](auto& a) { a.query.stride[2] = -64; }, MINFERENCE_INVALID_ARGUMENT,
       "query.stride[2] must be >= 0, got -64"},
      {[](auto& a) { a.key.stride[2] = INT64_MAX; }, MINFERENCE_INVALID_ARGUMENT,
       "key.stride[2] must keep every"},
      {[](auto& a) { a.key.shape[1] = 3; }, MINFERENCE_INVALID_ARGUMENT,
       "key.shape[1] must divide query.shape[1] = 2, got 3"},
      {[](auto& a) { a.key.dtype = MINFERENCE_F16; }, MINFERENCE_INVALID_ARGUMENT,
       "key.dtype must be 1, got 2"},
      {[](auto& a) { a.key.shape[2] = 50, a.value.shape[2] = 50; }, MINFERENCE_INVALID_ARGUMENT,
       "query.shape[2] must be <= kv_len = 50 when causal, got 64"},
      {[](auto& a) { a.value.shape[2] = 63; }, MINFERENCE_INVALID_ARGUMENT,
       "value.shape[2] must be 64, got 63"},
      {[](auto& a) { a.out.stride[2] = 0; }, MINFERENCE_INVALID_ARGUMENT,
       "out.stride[2] must be >= shape[3]: rows must not overlap, got 0"},
      {[](auto& a) { a.out.stride[1] = 63; }, MINFERENCE_INVALID_ARGUMENT,
       "out.stride[1] must be >= shape[3]: rows must not overlap, got 63"},
      {[](auto& a) { a.out.shape[0] = 2; }, MINFERENCE_INVALID_ARGUMENT, "out.shape[0] must be 1, got 2"},
      {[](auto& a) { a.lse.dtype = MINFERENCE_BF16; }, MINFERENCE_INVALID_ARGUMENT,
       "lse.dtype must be 1, got 3"},
      {[](auto& a) { a.softmax_scale = NAN; }, MINFERENCE_INVALID_ARGUMENT,
       "softmax_scale must be finite, got nan"},
      {[](auto& a) { a.heads = nullptr; }, MINFERENCE_INVALID_ARGUMENT, "heads must not be NULL"},
      {[](auto& a) { a.num_heads = 3; }, MINFERENCE_INVALID_ARGUMENT,
       "num_heads must be the number of query heads, 2, got 3"},
      {[](auto& a) { a.heads = negative; }, MINFERENCE_INVALID_ARGUMENT,
       "heads[0].size[1] must be >= 0, got -1"},
      {[](auto& a) { a.heads = unknown; }, MINFERENCE_INVALID_ARGUMENT,
       "heads[1].pattern must be a minference_pattern"},
      {[](auto& a) { a.heads = share; }, MINFERENCE_INVALID_ARGUMENT,
       "heads[0].share_ppm must be from 1 to 1000000"},
      {[](auto& a) { a.heads = slash, a.non_causal = 1; }, MINFERENCE_INVALID_ARGUMENT,
       "heads[1].pattern must be dense"},
      {[](auto& a) { a.fallback = 2; }, MINFERENCE_INVALID_ARGUMENT, "fallback must be "},
      {[](auto& a) { a.share_index = 2; }, MINFERENCE_INVALID_ARGUMENT, "share_index must be 0 or 1, got 2"},
      {[](auto& a) { a.num_sequences = 1; }, MINFERENCE_INVALID_ARGUMENT, "num_sequences must be 0 when"},
      {[](auto& a) { a.sequences = &outside, a.num_sequences = 1; }, MINFERENCE_INVALID_ARGUMENT,
       "sequences[0].q_len must be from 0 to 54, got 60"},
      {[](auto& a) { a.sequences = overlapping, a.num_sequences = 2; }, MINFERENCE_INVALID_ARGUMENT,
       "sequences[1].q_begin must not lie inside another sequence's rows, got 30"},
  };
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 64, .kv_len = 64, .head_dim = 64});
  const auto context = testing::context();
  for (const auto& refusal : cases) {
    minference_prefill_args args = layer.args;
    auto result = testing::blank_result(layer, args.out, args.lse);
    refusal.spoil(args);
    EXPECT_EQ(minference_prefill(context.get(), &args, nullptr), refusal.status) << refusal.message;
    EXPECT_EQ(std::string(minference_last_error()).substr(0, refusal.message.size()), refusal.message);
    for (float x : result.out) ASSERT_TRUE(std::isnan(x)) << "written after " << refusal.message;
  }
  EXPECT_EQ(minference_prefill(nullptr, &layer.args, nullptr), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(), "context must not be NULL, got NULL");
}

TEST(Refusals, UnknownIsaAndBadThreads) {
  minference_context* made = nullptr;
  minference_context_options options{.struct_size = sizeof options, .isa = "sse9"};
  EXPECT_EQ(minference_context_create(&options, &made), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(),
               "isa must be one of portable, avx2, avx512, avx512bf16, amx, got sse9");
  options = {.struct_size = sizeof options, .num_threads = -1};
  EXPECT_EQ(minference_context_create(&options, &made), MINFERENCE_INVALID_ARGUMENT);

  const std::int32_t nowhere[] = {-1}, first[] = {base::allowed_cpus().front()};
  options = {.struct_size = sizeof options, .num_cpus = 1, .cpus = nowhere};
  EXPECT_EQ(minference_context_create(&options, &made), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(), "options.cpus must be CPUs that this process may use, got -1");
  options = {.struct_size = sizeof options,
             .num_cpus = 1,
             .cpus = first,
             .parallel_for = [](void*, int64_t, void (*)(void*, int64_t), void*) {}};
  EXPECT_EQ(minference_context_create(&options, &made), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(),
               "options.cpus must be empty when parallel_for brings the threads, got 1 CPUs");
  options = {.struct_size = sizeof options, .num_cpus = 4097, .cpus = first};
  EXPECT_EQ(minference_context_create(&options, &made), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(), "options.num_cpus must be from 0 to 4096, got 4097");
  EXPECT_EQ(made, nullptr);
}

TEST(Refusals, FunctionsWithoutStatusLeaveTheirs) {
  EXPECT_EQ(minference_kernel_name("attention", nullptr, 7, 64), nullptr);
  EXPECT_EQ(minference_last_status(), MINFERENCE_INVALID_ARGUMENT);
  EXPECT_STREQ(minference_last_error(),
               "dtype must be MINFERENCE_F32 (1), MINFERENCE_F16 (2) or MINFERENCE_BF16 (3), got 7");
  EXPECT_EQ(minference_kernel_name("attention", nullptr, MINFERENCE_F32, 12), nullptr);
  EXPECT_EQ(minference_last_status(), MINFERENCE_UNSUPPORTED);
}

TEST(Refusals, OfALongNameTheMiddleIsLeftOut) {
  std::string name;
  while (name.size() < 4000) name += "\u00e9/";
  minference_patterns* patterns = nullptr;
  for (int shift = 0; shift < 3; ++shift, name.insert(0, "x")) {
    EXPECT_EQ(minference_patterns_parse("[oops", 5, name.c_str(), &patterns), MINFERENCE_INVALID_ARGUMENT);
    const std::string message = minference_last_error();
    EXPECT_TRUE(message.ends_with("\u00e9/: line 1, column 2: must be JSON, got \"o\"")) << message;
    const std::size_t middle = message.find("...");
    ASSERT_NE(middle, std::string::npos) << message;
    EXPECT_GT(middle, 500u);
    EXPECT_TRUE(name.starts_with(message.substr(0, middle))) << message;
    EXPECT_TRUE(message[middle - 1] == '/' || message.substr(middle - 2, 2) == "\u00e9") << message;
    EXPECT_TRUE(message[middle + 3] == '/' || message.substr(middle + 3, 2) == "\u00e9") << message;
  }
}

TEST(Context, SecondCallIsBusyAndMessagesArePerThread) {
  struct Host {
    minference_context* context = nullptr;
    const Layer* layer = nullptr;
    minference_status inner = MINFERENCE_OK;
  } host;
  const minference_context_options options{
      .struct_size = sizeof options,
      .num_threads = 3,
      .parallel_for =
          [](void* state, int64_t num_tasks, void (*task)(void*, int64_t), void* argument) {
            auto& host = *static_cast<Host*>(state);
            host.inner = run(*host.layer, host.context).status;
            for (int64_t i = num_tasks; i-- > 0;) task(argument, i);
          },
      .parallel_for_state = &host};
  Layer layer({.batch = 1, .query_heads = 2, .kv_heads = 1, .q_len = 512, .kv_len = 512, .head_dim = 64});
  host.layer = &layer;
  ASSERT_EQ(minference_context_create(&options, &host.context), MINFERENCE_OK);
  const auto result = run(layer, host.context);
  EXPECT_EQ(result.status, MINFERENCE_OK);
  EXPECT_EQ(host.inner, MINFERENCE_BUSY);
  EXPECT_EQ(result.out, run(layer).out) << "the caller's own loop gives the same bits";
  std::thread([] {
    EXPECT_EQ(minference_last_status(), MINFERENCE_OK);
    EXPECT_STREQ(minference_last_error(), "");
  }).join();
  minference_context_destroy(host.context);
  minference_context_destroy(nullptr);
}

}  // namespace
}  // namespace minference::capi
