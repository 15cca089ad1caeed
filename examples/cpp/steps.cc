// The steps of MInference one by one, on one head: estimate, select, index, attend.
#include <cstdio>
#include <minference/minference.hpp>
#include <random>
#include <vector>

int main() {
  constexpr std::int64_t tokens = 8192, head_dim = 64;
  constexpr minference::Extents shape{1, 1, tokens, head_dim};
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> query(tokens * head_dim), key(query.size()), value(query.size()), out(query.size());
  for (auto* tensor : {&query, &key, &value})
    for (float& x : *tensor) x = normal(generator);

  minference::Context context;
  const auto estimate = minference::estimate(context, {query, shape}, {key, shape});
  const std::vector<minference::HeadPattern> heads{minference::vertical_slash(50, 100)};
  const auto members = select(context, estimate, heads).front();
  const auto size = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
  const auto index =
      minference::Index::vertical_slash({members.columns, {1, 1, 1, size(members.columns)}},
                                        {members.offsets, {1, 1, 1, size(members.offsets)}}, tokens, tokens);
  attention(context, {query, shape}, {key, shape}, {value, shape}, {out, shape}, index);

  const auto head = index.head(0);
  std::printf("%zu columns and %zu diagonals: %zu tiles a row block, density %.1f %%\n",
              members.columns.size(), members.offsets.size(), head.tiles.size(), 100 * head.density());
}
