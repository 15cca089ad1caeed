#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/estimate/estimate.h"

namespace minference::kernels {

struct ReferenceSums {
  std::vector<double> column, diagonal;  // [kv_len]
};

// One query head of estimate.h's contract in double precision, written to be read.
inline ReferenceSums estimate_reference(const EstimateCall& call, std::int64_t head) {
  const base::InputHeads &query = call.query, &key = call.key;
  const std::int64_t kv_len = key.rows, kv_head = head / (query.heads / key.heads);
  ReferenceSums sums{std::vector<double>(kv_len), std::vector<double>(kv_len)};
  for (std::int64_t row = std::max<std::int64_t>(0, query.rows - kEstimateRows); row < query.rows; ++row) {
    const std::int64_t position = kv_len - query.rows + row;
    std::vector<double> a(position + 1);
    for (std::int64_t k = 0; k <= position; ++k) {
      double score = 0;
      for (std::int64_t d = 0; d < query.dim; ++d)
        score +=
            double{base::load_float(query.data, query.dtype,
                                    head * query.head_stride + row * query.row_stride + d)} *
            double{base::load_float(key.data, key.dtype, kv_head * key.head_stride + k * key.row_stride + d)};
      a[k] = score * call.softmax_scale;
    }
    const double largest = *std::max_element(a.begin(), a.end());
    double total = 0;
    for (double& x : a) total += x = std::exp(x - largest);
    for (std::int64_t k = 0; k <= position; ++k) {
      sums.column[k] += a[k] / total;
      sums.diagonal[position - k] += a[k] / total;
    }
  }
  return sums;
}

}  // namespace minference::kernels
