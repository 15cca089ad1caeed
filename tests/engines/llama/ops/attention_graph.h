#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// Attention as llama.cpp asks ggml for it, computed with and without the plugin.
namespace minference::ggml_test {

// Whether a row attends to a key, in a stream.
using Attends = std::function<bool(std::int64_t stream, std::int64_t row, std::int64_t key)>;

struct Case {
  ggml_type type = GGML_TYPE_F16;  // of keys and values
  std::int64_t head_dim = 64, num_heads = 4, num_kv_heads = 2, num_rows = 200, num_keys = 512,
               num_streams = 1;
  Attends attends;
  bool structured = false;  // heads that look at the first keys and the last ones, else white noise
  int first_layer = -1;  // names the tensor that keys are a view of, unless -1, as llama.cpp names its cache
  int num_layers = 1;    // attention over the same query, key, value and mask, one after the other
  Attends then = {};     // when set: the mask of a second pass, whose result is the result
  float max_bias = 0, soft_cap = 0;
  bool sinks = false;
};

// Rows [first, first + num_rows) of one sequence.
inline Attends chunk(std::int64_t first) {
  return [first](std::int64_t, std::int64_t row, std::int64_t key) { return key <= first + row; };
}

enum class On { cpu, plugin };

struct Result {
  std::vector<float> out;  // [streams, rows, heads, head_dim], of the last layer
  bool assigned_to_plugin = false;
  std::string log;  // what the plugin wrote
};

// `patterns`: MINFERENCE_GGML_PATTERNS.
Result compute(const Case& c, On on, const std::string& patterns = "dense", int num_threads = 2);

// Whether the plugin's device says that it computes the case.
bool is_supported(const Case& c);

// Largest error of a row, relative to its norm, against f64 attention over the case's rounded inputs and those pairs
// that `also` allows too. Every `step`th row is looked at.
double worst_error(const Case& c, const std::vector<float>& out, std::int64_t step,
                   const Attends& also = nullptr);

// |a - b| / |b| over everything.
double difference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace minference::ggml_test
