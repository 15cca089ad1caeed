// One layer of attention in C++: eight query heads share two key/value heads, and adapt to what they attend
// to.
#include <cstdio>
#include <minference/minference.hpp>
#include <random>
#include <vector>

// A random walk a head, so that tokens near each other look alike, as they do in text.
std::vector<float> walk(std::int64_t heads, std::int64_t tokens, std::int64_t head_dim) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (std::int64_t i = 0; i < heads * tokens * head_dim; ++i) {
    const float before = i % (tokens * head_dim) < head_dim ? 0 : values[values.size() - head_dim];
    values.push_back(0.99f * before + 0.3f * normal(generator));
  }
  return values;
}

int main() {
  constexpr std::int64_t query_heads = 8, kv_heads = 2, tokens = 8192, head_dim = 64;
  constexpr minference::Extents query_shape{1, query_heads, tokens, head_dim},
      kv_shape{1, kv_heads, tokens, head_dim};
  const std::vector<float> query = walk(query_heads, tokens, head_dim),
                           key = walk(kv_heads, tokens, head_dim);
  std::vector<float> out(query.size());

  minference::Context context;
  const std::vector<minference::HeadPattern> heads(query_heads, minference::adaptive(0.95));
  const auto statistics =
      prefill(context, {query, query_shape}, {key, kv_shape}, {key, kv_shape}, {out, query_shape}, heads);
  std::printf("instruction set %s, density %.1f %%\n", context.isa().data(), 100 * statistics.density());
  for (double density : statistics.head_density) std::printf("  %.1f %%\n", 100 * density);
}
