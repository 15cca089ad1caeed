#include "attention_graph.h"

#include <ggml-alloc.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <stdexcept>

namespace minference::ggml_test {
namespace {

std::string written;  // by the plugin since the last clear

void catch_log(ggml_log_level, const char* text, void*) {
  if (const std::string line = text; line.starts_with("minference:")) written += line;
}

ggml_backend_dev_t plugin_device() {
  static const ggml_backend_dev_t device = [] {
    ggml_log_set(catch_log, nullptr);
    ggml_backend_load_all();
    ggml_backend_reg_t registry = ggml_backend_load(PLUGIN);
    if (!registry) throw std::runtime_error("the plugin does not load: " + written);
    return ggml_backend_reg_dev_get(registry, 0);
  }();
  return device;
}

// Values of the case's tensors, as f32 rounded to their types, in memory order: [streams, length, heads, head_dim].
struct Inputs {
  std::vector<float> query, key, value;
};

float rounded(float x, ggml_type type) {
  if (type == GGML_TYPE_F16) return ggml_fp16_to_fp32(ggml_fp32_to_fp16(x));
  if (type == GGML_TYPE_BF16) return ggml_bf16_to_fp32(ggml_fp32_to_bf16(x));
  return x;
}

Inputs inputs_of(const Case& c) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::int64_t length, std::int64_t heads, ggml_type type) {
    std::vector<float> values(static_cast<std::size_t>(c.num_streams * length * heads * c.head_dim));
    for (float& x : values) x = rounded(normal(random), type);
    return values;
  };
  Inputs inputs{fill(c.num_rows, c.num_heads, GGML_TYPE_F32), fill(c.num_keys, c.num_kv_heads, c.type),
                fill(c.num_keys, c.num_kv_heads, c.type)};
  if (!c.structured) return inputs;
  // Positions turn the first two dimensions slowly, and key 0 has a direction that every query likes: mass goes to
  // what is near and to the first key.
  const auto turn = [&](std::vector<float>& x, std::int64_t heads, std::int64_t first, ggml_type type) {
    const std::int64_t row = heads * c.head_dim;
    for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(c.head_dim)) {
      const std::int64_t length = static_cast<std::int64_t>(x.size()) / row / c.num_streams;
      const double position = static_cast<double>(first + static_cast<std::int64_t>(i) / row % length);
      for (int d = 0; d < 8; ++d) {
        const double angle = position * std::pow(10.0, -d / 3.0);
        x[i + 2 * d] = rounded(4 * static_cast<float>(std::cos(angle)), type);
        x[i + 2 * d + 1] = rounded(4 * static_cast<float>(std::sin(angle)), type);
      }
      x[i + 16] = rounded(type == GGML_TYPE_F32 ? 8.0f : position == 0 ? 14.0f : 0.0f, type);
    }
  };
  turn(inputs.key, c.num_kv_heads, 0, c.type);
  turn(inputs.query, c.num_heads, c.num_keys - c.num_rows, GGML_TYPE_F32);
  return inputs;
}

std::vector<std::uint8_t> bytes_of(const std::vector<float>& values, ggml_type type) {
  std::vector<std::uint8_t> bytes(values.size() / static_cast<std::size_t>(ggml_blck_size(type)) *
                                  ggml_type_size(type));
  if (type == GGML_TYPE_F16) {
    ggml_fp32_to_fp16_row(values.data(), reinterpret_cast<ggml_fp16_t*>(bytes.data()),
                          static_cast<std::int64_t>(values.size()));
  } else if (type == GGML_TYPE_BF16) {
    ggml_fp32_to_bf16_row(values.data(), reinterpret_cast<ggml_bf16_t*>(bytes.data()),
                          static_cast<std::int64_t>(values.size()));
  } else if (type == GGML_TYPE_F32) {
    std::copy_n(reinterpret_cast<const std::uint8_t*>(values.data()), bytes.size(), bytes.data());
  } else {
    ggml_quantize_chunk(type, values.data(), bytes.data(), 0, static_cast<std::int64_t>(values.size()) / 64,
                        64, nullptr);
  }
  return bytes;
}

struct Graph {
  explicit Graph(const Case& c)
      : context(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}), ggml_free) {
    ggml_context* g = context.get();
    const std::int64_t cells = c.num_keys + 32;  // the cache goes on
    query = ggml_new_tensor_4d(g, GGML_TYPE_F32, c.head_dim, c.num_heads, c.num_rows, c.num_streams);
    value = ggml_new_tensor_4d(g, c.type, c.head_dim, c.num_kv_heads, cells, c.num_streams);
    mask = ggml_new_tensor_4d(g, GGML_TYPE_F16, c.num_keys, c.num_rows, 1, c.num_streams);
    for (ggml_tensor* tensor : {query, value, mask}) ggml_set_input(tensor);
    graph = ggml_new_graph(g);
    // Cells of all streams, cut to those in use, with heads outside as attention wants them.
    const auto view = [&](ggml_tensor* x) {
      ggml_tensor* cut = ggml_view_4d(g, x, c.head_dim, c.num_kv_heads, c.num_keys, c.num_streams, x->nb[1],
                                      x->nb[2], x->nb[3], 0);
      return ggml_permute(g, cut, 0, 2, 1, 3);
    };
    for (int layer = 0; layer < c.num_layers; ++layer) {
      ggml_tensor* key = ggml_new_tensor_4d(g, c.type, c.head_dim, c.num_kv_heads, cells, c.num_streams);
      keys.push_back(key);
      ggml_set_input(key);
      if (c.first_layer >= 0) ggml_format_name(key, "cache_k_l%d", c.first_layer + layer);
      attention = ggml_flash_attn_ext(g, ggml_permute(g, query, 0, 2, 1, 3), view(key), view(value), mask,
                                      1 / std::sqrt(static_cast<float>(c.head_dim)), c.max_bias, c.soft_cap);
      if (c.sinks) {
        sinks = ggml_new_tensor_1d(g, GGML_TYPE_F32, c.num_heads);
        ggml_set_input(sinks);
        ggml_flash_attn_ext_add_sinks(attention, sinks);
      }
      ggml_set_output(attention);
      ggml_build_forward_expand(graph, attention);
    }
  }

  std::unique_ptr<ggml_context, decltype(&ggml_free)> context;
  ggml_tensor *query, *value, *mask, *sinks = nullptr;
  std::vector<ggml_tensor*> keys;  // of each layer
  ggml_tensor* attention;          // of the last
  ggml_cgraph* graph;
};

void set_inputs(const Case& c, Graph& graph) {
  const Inputs inputs = inputs_of(c);
  const auto set_rows = [&](ggml_tensor* tensor, const std::vector<float>& values) {
    const auto bytes = bytes_of(values, tensor->type);
    const std::size_t stream = bytes.size() / static_cast<std::size_t>(c.num_streams);
    // What nobody attends to may hold anything that is a number.
    std::vector<std::uint8_t> rest(ggml_nbytes(tensor), 0x3c);
    ggml_backend_tensor_set(tensor, rest.data(), 0, rest.size());
    for (std::int64_t s = 0; s < c.num_streams; ++s) {
      ggml_backend_tensor_set(tensor, bytes.data() + static_cast<std::size_t>(s) * stream,
                              static_cast<std::size_t>(s) * tensor->nb[3], stream);
    }
  };
  set_rows(graph.query, inputs.query);
  for (ggml_tensor* key : graph.keys) set_rows(key, inputs.key);
  set_rows(graph.value, inputs.value);
  if (graph.sinks) {
    const std::vector<float> zeros(static_cast<std::size_t>(c.num_heads));
    ggml_backend_tensor_set(graph.sinks, zeros.data(), 0, ggml_nbytes(graph.sinks));
  }
}

void set_mask(const Case& c, const Attends& attends, ggml_tensor* tensor) {
  std::vector<ggml_fp16_t> mask;
  for (std::int64_t s = 0; s < c.num_streams; ++s)
    for (std::int64_t row = 0; row < c.num_rows; ++row)
      for (std::int64_t key = 0; key < c.num_keys; ++key)
        mask.push_back(ggml_fp32_to_fp16(attends(s, row, key) ? 0.0f : -INFINITY));
  ggml_backend_tensor_set(tensor, mask.data(), 0, ggml_nbytes(tensor));
}

}  // namespace

Result compute(const Case& c, On on, const std::string& patterns, int num_threads) {
  setenv("MINFERENCE_GGML_PATTERNS", patterns.c_str(), 1);
  ggml_backend_dev_t device = plugin_device();
  written.clear();
  std::vector<ggml_backend_t> backends;
  if (on == On::plugin) {
    backends.push_back(ggml_backend_dev_init(device, nullptr));
    if (!backends.back()) throw std::runtime_error(written);
    auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
    set_threads(backends.back(), num_threads);
  }
  backends.push_back(ggml_backend_cpu_init());
  ggml_backend_cpu_set_n_threads(backends.back(), num_threads);
  ggml_backend_sched_t sched =
      ggml_backend_sched_new(backends.data(), nullptr, static_cast<int>(backends.size()), 256, false, true);

  Graph graph(c);
  if (!ggml_backend_sched_alloc_graph(sched, graph.graph)) throw std::runtime_error("no memory");
  set_inputs(c, graph);
  const auto pass = [&](const Attends& attends) {
    set_mask(c, attends, graph.mask);
    // Whatever is not written shows.
    const std::vector<std::uint8_t> poison(ggml_nbytes(graph.attention), 0xff);
    ggml_backend_tensor_set(graph.attention, poison.data(), 0, poison.size());
    if (ggml_backend_sched_graph_compute(sched, graph.graph) != GGML_STATUS_SUCCESS)
      throw std::runtime_error("failed");
  };
  pass(c.attends);
  if (c.then) pass(c.then);
  Result result;
  result.assigned_to_plugin =
      on == On::plugin && ggml_backend_sched_get_tensor_backend(sched, graph.attention) == backends.front();
  result.out.resize(static_cast<std::size_t>(ggml_nelements(graph.attention)));
  ggml_backend_tensor_get(graph.attention, result.out.data(), 0, ggml_nbytes(graph.attention));
  ggml_backend_sched_free(sched);
  for (ggml_backend_t backend : backends) ggml_backend_free(backend);
  result.log = written;
  return result;
}

bool is_supported(const Case& c) {
  ggml_backend_dev_t device = plugin_device();
  const Graph graph(c);
  return ggml_backend_dev_supports_op(device, graph.attention);
}

double worst_error(const Case& c, const std::vector<float>& out, std::int64_t step, const Attends& also) {
  const Inputs inputs = inputs_of(c);
  const Attends& attends = c.then ? c.then : c.attends;
  const auto at = [&](const std::vector<float>& x, std::int64_t length, std::int64_t heads,
                      std::int64_t stream, std::int64_t i, std::int64_t head) {
    return x.data() + ((stream * length + i) * heads + head) * c.head_dim;
  };
  double worst = 0;
  for (std::int64_t stream = 0; stream < c.num_streams; ++stream)
    for (std::int64_t row = 0; row < c.num_rows; row += step)
      for (std::int64_t head = 0; head < c.num_heads; ++head) {
        const std::int64_t kv_head = head / (c.num_heads / c.num_kv_heads);
        const float* query = at(inputs.query, c.num_rows, c.num_heads, stream, row, head);
        std::vector<double> expected(static_cast<std::size_t>(c.head_dim));
        double sum = 0;
        for (std::int64_t k = 0; k < c.num_keys; ++k) {
          if (!attends(stream, row, k) || (also && !also(stream, row, k))) continue;
          const float* key = at(inputs.key, c.num_keys, c.num_kv_heads, stream, k, kv_head);
          const float* value = at(inputs.value, c.num_keys, c.num_kv_heads, stream, k, kv_head);
          double score = 0;
          for (std::int64_t d = 0; d < c.head_dim; ++d) score += double{query[d]} * key[d];
          const double p = std::exp(score / std::sqrt(static_cast<double>(c.head_dim)));
          sum += p;
          for (std::int64_t d = 0; d < c.head_dim; ++d) expected[static_cast<std::size_t>(d)] += p * value[d];
        }
        const float* got = at(out, c.num_rows, c.num_heads, stream, row, head);
        double error = 0, norm = 0;
        for (std::int64_t d = 0; d < c.head_dim; ++d) {
          const double want = expected[static_cast<std::size_t>(d)] / sum;
          error += (got[d] - want) * (got[d] - want);
          norm += want * want;
        }
        const double relative = std::sqrt(error / norm);
        if (!(relative <= worst)) worst = relative;  // NaN too
      }
  return worst;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace minference::ggml_test
