// Calls that make a context, patterns or an index, or use them, with one wrong argument.
#include "capi/random_calls.h"

namespace minference::capi {
namespace {

using namespace testing;

class RandomHandleCalls : public RandomCalls {
 protected:
  RandomHandleCalls() {
    minference_index_args args{.struct_size = sizeof args,
                               .query = layer_.args.query,
                               .key = layer_.args.key,
                               .heads = layer_.heads.data(),
                               .num_heads = 4};
    index_ = made<minference_index>(minference_index_create, context_.get(), &args);
    minference_tensor members{members_.data(), {1, 4, 1, 4}, {16, 4, 4, 1}, MINFERENCE_I32, 0};
    other_index_ = made<minference_index>(minference_index_vertical_slash, &members, &members, 63, 64, 0);
    patterns_ = made<minference_patterns>(minference_patterns_create, 1, 4, layer_.heads.data(), "");
  }
  ~RandomHandleCalls() override {
    minference_index_destroy(index_);
    minference_index_destroy(other_index_);
    minference_patterns_destroy(patterns_);
  }

  void index_create() {
    auto heads = layer_.heads;
    minference_index_args args{.struct_size = sizeof args,
                               .query = layer_.args.query,
                               .key = layer_.args.key,
                               .heads = heads.data(),
                               .num_heads = 4};
    const auto* args_pointer = &args;
    auto* context = context_.get();
    minference_index* index = nullptr;
    auto** target = &index;
    spoil(wrong_query_and_key(args, args_pointer, context),
          {[&] { return wrong("num_heads", args.num_heads, outside(random_, 4, 4)); },
           [&] { return wrong("heads", args.heads, nullptr); }, [&] { return spoil_head(random_, heads); },
           [&] { return wrong("heads[0].pattern", args.non_causal, 1); },
           [&] { return wrong("fallback", args.fallback, outside32(random_, 0, 1)); },
           [&] { return wrong("share_index", args.share_index, outside32(random_, 0, 1)); },
           [&] { return wrong("index", target, nullptr); }});
    expect_refused(minference_index_create(context, args_pointer, target));
    ASSERT_EQ(index, nullptr) << wrong_;
  }

  void vertical_slash() {
    std::vector<std::int32_t> columns(8), offsets(8);
    for (std::size_t i = 0; i < 8; ++i)
      columns[i] = offsets[i] = static_cast<std::int32_t>(pick(random_, 0, 63));
    minference_tensor column_tensor{columns.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    minference_tensor offset_tensor{offsets.data(), {1, 2, 1, 4}, {8, 4, 4, 1}, MINFERENCE_I32, 0};
    const minference_tensor *column_pointer = &column_tensor, *offset_pointer = &offset_tensor;
    std::int64_t q_len = 40, kv_len = 64;
    minference_index* index = nullptr;
    auto** target = &index;
    const auto member = [&] { return static_cast<std::size_t>(pick(random_, 0, 7)); };
    spoil({[&] { return wrong("columns", columns[member()], outside32(random_, 0, 63)); },
           [&] { return wrong("offsets", offsets[member()], outside32(random_, 0, 63)); },
           [&] { return wrong("q_len", q_len, outside(random_, 0, 64)); },
           [&] { return wrong("kv_len", kv_len, -pick(random_, 1, INT64_MAX)); },
           [&] {
             return spoil_tensor(random_, column_tensor, "columns", {0, 2});
           },
           [&] {
             return spoil_tensor(random_, offset_tensor, "offsets", {0, 1, 2});
           },
           [&] { return wrong("columns", column_pointer, nullptr); },
           [&] { return wrong("offsets", offset_pointer, nullptr); },
           [&] { return wrong("index", target, nullptr); }});
    expect_refused(minference_index_vertical_slash(column_pointer, offset_pointer, q_len, kv_len, 0, target));
    ASSERT_EQ(index, nullptr) << wrong_;
  }

  void index_get() {
    const auto* index = index_;
    std::int64_t head = pick(random_, 0, 3);
    minference_index_head out{};
    out.struct_size = sizeof out;
    auto* target = &out;
    spoil({[&] { return wrong("index", index, nullptr); },
           [&] { return wrong("head", head, outside(random_, 0, 3)); },
           [&] { return wrong("out", target, nullptr); }, [&] { return spoil_size(random_, out, "out"); }});
    expect_refused(minference_index_get(index, head, target));
    ASSERT_EQ(out.tiles, nullptr) << wrong_;
  }

  void attention() {
    minference_attention_args args{.struct_size = sizeof args,
                                   .query = layer_.args.query,
                                   .key = layer_.args.key,
                                   .value = layer_.args.value,
                                   .index = index_};
    auto result = blank_result(layer_, args.out, args.lse);
    const auto* args_pointer = &args;
    auto* context = context_.get();
    spoil(wrong_layer(args, args_pointer, context),
          {[&] { return wrong("index", args.index, nullptr); },
           [&] { return wrong("index", args.index, other_index_); }});
    expect_refused(minference_attention(context, args_pointer));
    expect_unwritten(result.out);
    expect_unwritten(result.lse);
  }

  void make_patterns() {
    std::vector<minference_head_pattern> heads(6, {MINFERENCE_VERTICAL_SLASH, {10, 10}});
    std::int64_t num_layers = 3, num_heads = 2;
    const auto* heads_pointer = heads.data();
    const char *text = "[]", *name = "name", *model = "Qwen/Qwen2-7B-Instruct", *path = "/nowhere";
    minference_patterns* set = nullptr;
    auto** target = &set;
    switch (pick(random_, 0, 3)) {
      case 0:
        spoil({[&] { return wrong("num_layers", num_layers, outside(random_, 1, 1 << 20)); },
               [&] { return wrong("num_query_heads", num_heads, outside(random_, 1, 1 << 20)); },
               [&] { return wrong("heads", heads_pointer, nullptr); },
               [&] { return spoil_head(random_, heads); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_create(num_layers, num_heads, heads_pointer, "test", target));
        break;
      case 1:
        spoil({[&] { return wrong("text", text, nullptr); }, [&] { return wrong("name", name, nullptr); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_parse(text, 2, name, target));
        break;
      case 2:
        spoil({[&] { return wrong("model", model, nullptr); }, [&] { return wrong("model", model, "gpt-0"); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_builtin(model, target));
        break;
      default:
        spoil({[&] { return wrong("path", path, nullptr); },
               [&] { return wrong("patterns", target, nullptr); }});
        expect_refused(minference_patterns_load(path, target));
    }
    ASSERT_EQ(set, nullptr) << wrong_;
  }

  void use_patterns() {
    const auto* patterns = patterns_;
    std::vector<minference_head_pattern> heads(4, {-7, {0, 0}});
    auto* heads_pointer = heads.data();
    std::int64_t layer = 0, num_layers = 1, num_heads = 4;
    const char *json = nullptr, **text = &json, *path = "/nowhere/patterns.json";
    const Spoil no_patterns = [&] { return wrong("patterns", patterns, nullptr); };
    switch (pick(random_, 0, 3)) {
      case 0:
        spoil({no_patterns, [&] { return wrong("layer", layer, outside(random_, 0, 0)); },
               [&] { return wrong("heads", heads_pointer, nullptr); }});
        expect_refused(minference_patterns_layer(patterns, layer, heads_pointer));
        ASSERT_EQ(heads[0].pattern, -7) << wrong_;
        break;
      case 1:
        spoil({no_patterns, [&] { return wrong("patterns", num_layers, outside(random_, 1, 1)); },
               [&] { return wrong("patterns", num_heads, outside(random_, 4, 4)); }});
        expect_refused(minference_patterns_check(patterns, num_layers, num_heads));
        break;
      case 2:
        spoil({no_patterns, [&] { return wrong("text", text, nullptr); }});
        expect_refused(minference_patterns_json(patterns, text));
        ASSERT_EQ(json, nullptr) << wrong_;
        break;
      default:
        spoil({no_patterns, [&] { return wrong("path", path, nullptr); }});
        expect_refused(minference_patterns_save(patterns, path));
    }
  }

  void context_create() {
    const std::int32_t cpu = -static_cast<std::int32_t>(pick(random_, 1, INT32_MAX));
    minference_context_options options{.struct_size = sizeof options, .num_threads = 1};
    minference_context* context = nullptr;
    auto** target = &context;
    spoil({[&] { return spoil_size(random_, options, "options"); },
           [&] { return wrong("options.num_threads", options.num_threads, outside32(random_, 0, 4096)); },
           [&] { return wrong("options.num_cpus", options.num_cpus, outside32(random_, 0, 4096)); },
           [&] { return wrong("options.cpus", options.num_cpus, 1); },
           [&] { return options.num_cpus = 1, wrong("options.cpus", options.cpus, &cpu); },
           [&] { return wrong("isa", options.isa, "sse9"); },
           [&] { return wrong("context", target, nullptr); }});
    expect_refused(minference_context_create(&options, target));
    ASSERT_EQ(context, nullptr) << wrong_;
  }

 private:
  template <class Handle, class Create, class... Arguments>
  static Handle* made(Create create, Arguments... arguments) {
    Handle* handle = nullptr;
    EXPECT_EQ(create(arguments..., &handle), MINFERENCE_OK) << minference_last_error();
    return handle;
  }

  std::vector<std::int32_t> members_ = std::vector<std::int32_t>(16);
  minference_index *index_ = nullptr, *other_index_ = nullptr;
  minference_patterns* patterns_ = nullptr;
};

TEST_F(RandomHandleCalls, OneWrongArgumentIsNamed) {
  make({[this] { index_create(); }, [this] { vertical_slash(); }, [this] { index_get(); },
        [this] { attention(); }, [this] { make_patterns(); }, [this] { use_patterns(); },
        [this] { context_create(); }});
}

}  // namespace
}  // namespace minference::capi
