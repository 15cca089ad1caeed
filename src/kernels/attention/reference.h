#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/attention/attention.h"

namespace minference::kernels {

// The specification of attention, in double precision, for one query row. With s_k = softmax_scale * <q, k>:
//
//   out = sum_k exp(s_k - lse) v_k        lse = log sum_k exp(s_k)
//
// over the keys k for which `attends(k)`; zeros and -inf when there is none.
struct ReferenceRow {
  std::vector<double> out;  // [head_dim]
  double lse = -std::numeric_limits<double>::infinity();
};

// `attends(k)` says whether the query row (head, row) of `call` attends to key k of [0, kv_len). Ignores
// call.index.
template <class Attends>
ReferenceRow reference_attention(const AttentionCall& call, std::int64_t head, std::int64_t row,
                                 Attends attends) {
  const base::InputHeads& query = call.query;
  const base::InputHeads& key = call.key;
  const std::int64_t kv_head = head / (query.heads / key.heads);
  const auto element = [](const base::InputHeads& x, std::int64_t h, std::int64_t r, std::int64_t d) {
    return double{base::load_float(x.data, x.dtype, h * x.head_stride + r * x.row_stride + d)};
  };

  std::vector<std::int64_t> keys;
  std::vector<double> scores;
  for (std::int64_t k = 0; k < key.rows; ++k) {
    if (!attends(k)) continue;
    double dot = 0;
    for (std::int64_t d = 0; d < query.dim; ++d)
      dot += element(query, head, row, d) * element(key, kv_head, k, d);
    keys.push_back(k);
    scores.push_back(double{call.softmax_scale} * dot);
  }

  ReferenceRow result;
  result.out.assign(static_cast<std::size_t>(query.dim), 0.0);
  if (keys.empty()) return result;
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double s : scores) sum += std::exp(s - max);
  result.lse = max + std::log(sum);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const double probability = std::exp(scores[i] - result.lse);
    for (std::int64_t d = 0; d < query.dim; ++d) {
      result.out[static_cast<std::size_t>(d)] += probability * element(call.value, kv_head, keys[i], d);
    }
  }
  return result;
}

}  // namespace minference::kernels
