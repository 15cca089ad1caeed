// Randomised calls through the C ABI with exactly one wrong argument: each must be refused with a message
// that begins with that argument's name, and write nothing.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "capi/testing.h"

namespace minference::capi {
namespace {

using Random = std::mt19937_64;

std::int64_t pick(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

// A value outside [low, high].
std::int64_t outside(Random& random, std::int64_t low, std::int64_t high) {
  constexpr std::int64_t kFar = std::int64_t{1} << 62;
  if (pick(random, 0, 1)) return high + pick(random, 1, pick(random, 0, 1) ? 10 : kFar - high);
  return low - pick(random, 1, pick(random, 0, 1) ? 10 : kFar);
}

std::int32_t outside32(Random& random, std::int32_t low, std::int32_t high) {
  const bool above = pick(random, 0, 1) && high < INT32_MAX;
  return static_cast<std::int32_t>(above ? pick(random, std::int64_t{high} + 1, INT32_MAX)
                                         : pick(random, INT32_MIN, std::int64_t{low} - 1));
}

// What a spoiled call must say it was refused for.
struct Wrong {
  std::string name;
};

// Spoils one field of a valid [1, H, length, D] tensor; `fixed` are the dimensions that the call prescribes.
Wrong spoil_tensor(minference_tensor& tensor, const std::string& name, Random& random, std::vector<int> fixed,
                   bool written) {
  switch (pick(random, 0, 5)) {
    case 0:
      tensor.dtype = outside32(random, 1, 5);
      return {name + ".dtype"};
    case 1:
      tensor.device = outside32(random, 0, 0);
      return {name + ".device"};
    case 2:
      tensor.data = nullptr;
      return {name + ".data"};
    case 3: {
      const int i =
          fixed[static_cast<std::size_t>(pick(random, 0, static_cast<std::int64_t>(fixed.size()) - 1))];
      tensor.shape[i] =
          pick(random, 0, 1) ? -pick(random, 1, INT64_MAX) : tensor.shape[i] + (pick(random, 1, 1000) | 1);
      return {name + ".shape[" + std::to_string(i) + "]"};
    }
    case 4:
      tensor.stride[3] = outside(random, 1, 1);
      return {name + ".stride[3]"};
    default: {
      const int i = pick(random, 0, 1) ? 1 : 2;
      tensor.stride[i] = pick(random, 0, 1) ? -pick(random, 1, INT64_MAX) : INT64_MAX - pick(random, 0, 1000);
      if (written && i == 2 && pick(random, 0, 1)) tensor.stride[i] = pick(random, 0, tensor.shape[3] - 1);
      return {name + ".stride[" + std::to_string(i) + "]"};
    }
  }
}

class RandomCalls {
 public:
  explicit RandomCalls(std::uint64_t seed) : random_(seed), context_(testing::context(1)) {}

  void prefill() {
    auto args = layer_.args;
    auto result = testing::blank_result(layer_, args.out, args.lse);
    std::vector<minference_sequence> sequences = {{0, 3, 20, 3, 30}, {0, 30, 10, 33, 10}};
    args.sequences = sequences.data();
    args.num_sequences = 2;
    auto heads = layer_.heads;
    args.heads = heads.data();
    auto* context = context_.get();
    Wrong wrong;
    switch (pick(random_, 0, 11)) {
      case 0:
        args.struct_size = static_cast<std::size_t>(outside(random_, sizeof args, sizeof args)),
        wrong = {"args.struct_size"};
        break;
      case 1:
        wrong = spoil_tensor(args.query, "query", random_, {3}, false);
        break;
      case 2:
        wrong = spoil_tensor(args.key, "key", random_, {0, 3}, false);
        break;
      case 3:
        wrong = spoil_tensor(args.value, "value", random_, {0, 1, 2, 3}, false);
        break;
      case 4:
        wrong = spoil_tensor(args.out, "out", random_, {0, 1, 2, 3}, true);
        break;
      case 5:
        args.lse.dtype = outside32(random_, 1, 5), wrong = {"lse.dtype"};
        break;
      case 6:
        args.softmax_scale = pick(random_, 0, 1) ? NAN : -INFINITY, wrong = {"softmax_scale"};
        break;
      case 7:
        args.num_heads = outside(random_, 4, 4), wrong = {"num_heads"};
        break;
      case 8:
        wrong = spoil_head(heads);
        break;
      case 9:
        wrong = spoil_sequence(sequences);
        break;
      case 10:
        args.fallback = outside32(random_, 0, 1), wrong = {"fallback"};
        break;
      default:
        wrong = spoil_pointer(context, args);
        break;
    }
    const bool no_args = wrong.name == "args";
    expect_refused(minference_prefill(context, no_args ? nullptr : &args, nullptr), wrong);
    for (float x : result.out) ASSERT_TRUE(std::isnan(x)) << "written although " << wrong.name << " is wrong";
  }

  void vertical_slash() {
    std::vector<std::int32_t> columns(8), offsets(8);
    for (int i = 0; i < 8; ++i) columns[i] = offsets[i] = static_cast<std::int32_t>(pick(random_, 0, 63));
    minference_tensor column_tensor{columns.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    minference_tensor offset_tensor{offsets.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    std::int64_t q_len = 40, kv_len = 64;
    minference_index* index = nullptr;
    minference_index** target = &index;
    const minference_tensor *column_pointer = &column_tensor, *offset_pointer = &offset_tensor;
    Wrong wrong;
    switch (pick(random_, 0, 8)) {
      case 0:
        columns[pick(random_, 0, 7)] = outside32(random_, 0, 63), wrong = {"columns"};
        break;
      case 1:
        offsets[pick(random_, 0, 7)] = outside32(random_, 0, 63), wrong = {"offsets"};
        break;
      case 2:
        q_len = outside(random_, 0, 64), wrong = {"q_len"};
        break;
      case 3:
        kv_len = -pick(random_, 1, INT64_MAX), wrong = {"kv_len"};
        break;
      case 4:
        wrong = spoil_tensor(column_tensor, "columns", random_, {0, 2}, false);
        break;
      case 5:
        wrong = spoil_tensor(offset_tensor, "offsets", random_, {0, 1, 2}, false);
        break;
      case 6:
        column_pointer = nullptr, wrong = {"columns"};
        break;
      case 7:
        offset_pointer = nullptr, wrong = {"offsets"};
        break;
      default:
        target = nullptr, wrong = {"index"};
        break;
    }
    // The outer strides of a lone batch entry and row are never read.
    if (wrong.name.find("stride[2]") != std::string::npos) return;
    expect_refused(minference_index_vertical_slash(column_pointer, offset_pointer, q_len, kv_len, 0, target),
                   wrong);
    ASSERT_EQ(index, nullptr);
  }

  void patterns() {
    std::vector<minference_head_pattern> heads(6, {MINFERENCE_VERTICAL_SLASH, {10, 10}});
    std::int64_t num_layers = 3, num_heads = 2;
    minference_patterns* made = nullptr;
    Wrong wrong;
    switch (pick(random_, 0, 2)) {
      case 0:
        num_layers = outside(random_, 1, 1 << 20), wrong = {"num_layers"};
        break;
      case 1:
        num_heads = outside(random_, 1, 1 << 20), wrong = {"num_query_heads"};
        break;
      default:
        wrong = spoil_head(heads);
        break;
    }
    expect_refused(minference_patterns_create(num_layers, num_heads, heads.data(), "test", &made), wrong);
    ASSERT_EQ(made, nullptr);
  }

 private:
  Wrong spoil_head(std::vector<minference_head_pattern>& heads) {
    const auto i = static_cast<std::size_t>(pick(random_, 0, static_cast<std::int64_t>(heads.size()) - 1));
    const std::string name = "heads[" + std::to_string(i) + "].";
    switch (pick(random_, 0, 3)) {
      case 0:
        heads[i].pattern = outside32(random_, 0, 4);
        return {name + "pattern"};
      case 1:
        heads[i].size[1] = outside32(random_, 0, INT32_MAX);
        return {name + "size[1]"};
      case 2:
        heads[i].last_dense_rows = outside32(random_, 0, INT32_MAX);
        return {name + "last_dense_rows"};
      default:
        heads[i] = {MINFERENCE_ADAPTIVE, {0, 0}, 0, outside32(random_, 1, 1000000)};
        return {name + "share_ppm"};
    }
  }

  Wrong spoil_sequence(std::vector<minference_sequence>& sequences) {
    const auto i = static_cast<std::size_t>(pick(random_, 0, 1));
    const std::string name = "sequences[" + std::to_string(i) + "].";
    auto& s = sequences[i];
    switch (pick(random_, 0, 4)) {
      case 0:
        s.batch = outside(random_, 0, 0);
        return {name + "batch"};
      case 1:
        s.q_begin = outside(random_, 0, 64);
        return {name + "q_begin"};
      case 2:
        s.q_len = outside(random_, 0, 64);
        return {name + "q_len"};
      case 3:
        s.kv_begin = outside(random_, 0, 64);
        return {name + "kv_begin"};
      default:
        s.kv_len = outside(random_, 0, 64);
        return {name + "kv_len"};
    }
  }

  Wrong spoil_pointer(minference_context*& context, minference_prefill_args& args) {
    switch (pick(random_, 0, 2)) {
      case 0:
        context = nullptr;
        return {"context"};
      case 1:
        args.heads = nullptr;
        return {"heads"};
      default:
        return {"args"};
    }
  }

  void expect_refused(minference_status status, const Wrong& wrong) {
    const std::string message = minference_last_error();
    ASSERT_TRUE(status == MINFERENCE_INVALID_ARGUMENT || status == MINFERENCE_UNSUPPORTED)
        << "status " << status << " although " << wrong.name << " is wrong; last message: " << message;
    const bool named = message.starts_with(wrong.name + " ") || message.starts_with(wrong.name + "[");
    ASSERT_TRUE(named) << wrong.name << " is wrong, but: " << message;
  }

  Random random_;
  std::unique_ptr<minference_context, testing::DestroyContext> context_;
  testing::Layer layer_{
      {.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 64, .kv_len = 64, .head_dim = 64}};
};

TEST(RandomCalls, OneWrongArgumentIsNamed) {
  constexpr int kCalls = 100000;
  RandomCalls random_calls(20261124);
  for (int i = 0; i < kCalls && !HasFatalFailure(); ++i) {
    SCOPED_TRACE("call " + std::to_string(i));
    switch (i % 4) {
      case 0:
        random_calls.vertical_slash();
        break;
      case 1:
        random_calls.patterns();
        break;
      default:
        random_calls.prefill();
    }
  }
}

}  // namespace
}  // namespace minference::capi
