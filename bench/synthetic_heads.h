#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace minference::bench {

// Heads of python/minference/synthetic.py, which says what they are made of: the same values for the same
// arguments. bfloat16 bits, [heads, tokens, head_dim] contiguous; `query` holds the last num_query_rows
// tokens.
struct SyntheticHeads {
  std::int64_t num_tokens = 0, num_query_rows = 0, num_query_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::vector<std::uint16_t> query, key, value;
};

// `head_types`: "local", "slash", "vertical", "mixed" or "broad" for each query head. num_query_heads is a
// multiple of num_kv_heads, head_dim even and at least 32.
SyntheticHeads make_synthetic_heads(std::int64_t num_tokens, std::int64_t num_kv_heads, std::int64_t head_dim,
                                    std::uint64_t seed, const std::vector<std::string_view>& head_types,
                                    std::int64_t num_query_rows);

// The type that MInference 1.0's search gives this budget to; "mixed" for budgets it does not use.
std::string_view head_type_of_budget(std::int32_t vertical, std::int32_t slash);

}  // namespace minference::bench
