#pragma once

// Random calls of the C ABI with exactly one wrong argument: each must be refused with a message that begins with that
// argument's name, and write nothing.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "capi/spoil.h"
#include "capi/testing.h"

namespace minference::capi::testing {

// One wrong argument: makes it wrong and returns its name.
using Spoil = std::function<std::string()>;

// One valid call, spoiled and made.
using Call = std::function<void()>;

class RandomCalls : public ::testing::Test {
 protected:
  RandomCalls() { layer_.set_heads({MINFERENCE_VERTICAL_SLASH, {10, 10}}); }

  // Makes each of the calls 7,200 times, in turn.
  void make(const std::vector<Call>& calls) {
    const int count = 7200 * static_cast<int>(calls.size());
    for (int i = 0; i < count && !HasFatalFailure(); ++i) {
      SCOPED_TRACE("call " + std::to_string(i));
      calls[static_cast<std::size_t>(i) % calls.size()]();
    }
    EXPECT_EQ(refused_, count);
    std::printf("checked: %d calls, each refused by the name of its wrong argument\n", refused_);
  }

  // Does one of them.
  void spoil(const std::vector<Spoil>& ways) { wrong_ = pick(random_, ways)(); }
  void spoil(std::vector<Spoil> ways, const std::vector<Spoil>& more) {
    ways.insert(ways.end(), more.begin(), more.end());
    spoil(ways);
  }

  // What may be wrong with any call on query and key. `pointer` and `context` are what the call is given.
  template <class Args>
  std::vector<Spoil> wrong_query_and_key(Args& args, const Args*& pointer, minference_context*& context,
                                         std::vector<int> query_dims = {2, 3}) {
    return {[&] { return spoil_size(random_, args); },
            [&, query_dims] { return spoil_tensor(random_, args.query, "query", query_dims); },
            [&] {
              return spoil_tensor(random_, args.key, "key", {0, 3});
            },
            [&] { return wrong("softmax_scale", args.softmax_scale, not_finite()); },
            [&] { return wrong("context", context, nullptr); },
            [&] { return wrong("args", pointer, nullptr); }};
  }

  // The same with value, out and lse; another q_len would be called out's mistake.
  template <class Args>
  std::vector<Spoil> wrong_layer(Args& args, const Args*& pointer, minference_context*& context) {
    auto ways = wrong_query_and_key(args, pointer, context, {3});
    ways.insert(ways.end(), {[&] {
                               return spoil_tensor(random_, args.value, "value", {0, 1, 2, 3});
                             },
                             [&] {
                               return spoil_tensor(random_, args.out, "out", {0, 1, 2, 3}, true);
                             },
                             [&] { return wrong("lse.dtype", args.lse.dtype, outside32(random_, 1, 1)); }});
    return ways;
  }

  template <class T>
  static std::string wrong(const char* name, T& argument, std::type_identity_t<T> value) {
    argument = value;
    return name;
  }

  float not_finite() { return pick(random_, std::vector<float>{NAN, INFINITY, -INFINITY}); }

  void expect_refused(minference_status status) {
    const std::string message = minference_last_error();
    ASSERT_TRUE(status == MINFERENCE_INVALID_ARGUMENT || status == MINFERENCE_UNSUPPORTED)
        << "status " << status << " although " << wrong_ << " is wrong; last message: " << message;
    const bool named = message.starts_with(wrong_ + " ") || message.starts_with(wrong_ + "[");
    ASSERT_TRUE(named) << wrong_ << " is wrong, but: " << message;
    ++refused_;
  }

  static void expect_unwritten(const std::vector<float>& values) {
    for (const float x : values) ASSERT_TRUE(std::isnan(x));
  }

  Random random_{20261124};
  std::unique_ptr<minference_context, DestroyContext> context_ = testing::context(1);
  Layer layer_{{.batch = 1, .query_heads = 4, .kv_heads = 2, .q_len = 64, .kv_len = 64, .head_dim = 64}};
  std::string wrong_;  // the argument that this call's message must name

 private:
  int refused_ = 0;
};

}  // namespace minference::capi::testing
