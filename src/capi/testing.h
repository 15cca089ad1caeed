#pragma once

// Layers to call the C ABI with, for the tests of this folder.

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "minference/minference.h"

namespace minference::capi::testing {

struct DestroyContext {
  void operator()(minference_context* context) const { minference_context_destroy(context); }
};

inline std::unique_ptr<minference_context, DestroyContext> context(int num_threads = 2) {
  const minference_context_options options{.struct_size = sizeof options, .num_threads = num_threads};
  minference_context* made = nullptr;
  minference_context_create(&options, &made);
  return std::unique_ptr<minference_context, DestroyContext>(made);
}

struct Shape {
  std::int64_t batch, query_heads, kv_heads, q_len, kv_len, head_dim;
};

// f32 tensors of one layer in [B, length, H, D] memory, as engines hand them over.
class Layer {
 public:
  explicit Layer(Shape shape) : shape(shape) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& data, std::int64_t length, std::int64_t num_heads) {
      data.resize(static_cast<std::size_t>(shape.batch * length * num_heads * shape.head_dim));
      for (float& x : data) x = normal(random);
    };
    fill(query_, shape.q_len, shape.query_heads);
    fill(key_, shape.kv_len, shape.kv_heads);
    fill(value_, shape.kv_len, shape.kv_heads);
    args.struct_size = sizeof args;
    args.query = tensor(query_, shape.q_len, shape.query_heads);
    args.key = tensor(key_, shape.kv_len, shape.kv_heads);
    args.value = tensor(value_, shape.kv_len, shape.kv_heads);
    set_heads({MINFERENCE_DENSE});
  }
  Layer(Layer&&) = default;
  Layer& operator=(Layer&&) = default;

  void set_heads(const minference_head_pattern& head) {
    heads.assign(static_cast<std::size_t>(shape.query_heads), head);
    args.heads = heads.data();
    args.num_heads = shape.query_heads;
  }

  void set_sequences(std::vector<minference_sequence> list) {
    sequences_ = std::move(list);
    args.sequences = sequences_.data();
    args.num_sequences = static_cast<std::int64_t>(sequences_.size());
  }

  minference_tensor tensor(std::vector<float>& data, std::int64_t length, std::int64_t num_heads) const {
    const std::int64_t d = shape.head_dim;
    return {data.data(),
            {shape.batch, num_heads, length, d},
            {length * num_heads * d, d, num_heads * d, 1},
            MINFERENCE_F32,
            0};
  }

  std::size_t out_row(std::int64_t b, std::int64_t h, std::int64_t r) const {
    return static_cast<std::size_t>(((b * shape.q_len + r) * shape.query_heads + h) * shape.head_dim);
  }
  std::size_t lse_at(std::int64_t b, std::int64_t h, std::int64_t r) const {
    return static_cast<std::size_t>((b * shape.query_heads + h) * shape.q_len + r);
  }

  Shape shape;
  minference_prefill_args args{};
  std::vector<minference_head_pattern> heads;

 private:
  std::vector<float> query_, key_, value_;
  std::vector<minference_sequence> sequences_;
};

struct Result {
  minference_status status = MINFERENCE_OK;
  std::vector<float> out, lse;
  std::vector<double> density;
  std::vector<std::int32_t> fallback;
  minference_statistics statistics{};
};

inline Result blank_result(const Layer& layer, minference_tensor& out, minference_tensor& lse) {
  const auto& s = layer.shape;
  Result result;
  result.out.assign(static_cast<std::size_t>(s.batch * s.query_heads * s.q_len * s.head_dim), NAN);
  result.lse.assign(static_cast<std::size_t>(s.batch * s.query_heads * s.q_len), NAN);
  out = layer.tensor(result.out, s.q_len, s.query_heads);
  lse = {result.lse.data(),
         {s.batch, s.query_heads, s.q_len, 1},
         {s.query_heads * s.q_len, s.q_len, 1, 1},
         MINFERENCE_F32,
         0};
  return result;
}

inline Result run(const Layer& layer, minference_context* in = nullptr) {
  minference_prefill_args args = layer.args;
  Result result = blank_result(layer, args.out, args.lse);
  const auto num = static_cast<std::size_t>((args.sequences ? args.num_sequences : layer.shape.batch) *
                                            layer.shape.query_heads);
  result.density.assign(num, -1.0);
  result.fallback.assign(num, -1);
  result.statistics = {.struct_size = sizeof(minference_statistics),
                       .head_density = result.density.data(),
                       .head_fallback = result.fallback.data()};
  const auto own = in ? nullptr : context();
  result.status = minference_prefill(in ? in : own.get(), &args, &result.statistics);
  return result;
}

inline Result run_attention(const Layer& layer, const minference_index* index) {
  minference_attention_args args{.struct_size = sizeof args,
                                 .query = layer.args.query,
                                 .key = layer.args.key,
                                 .value = layer.args.value,
                                 .index = index};
  Result result = blank_result(layer, args.out, args.lse);
  result.status = minference_attention(context().get(), &args);
  return result;
}

}  // namespace minference::capi::testing
