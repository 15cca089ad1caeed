#include "kernels/select/select.h"

#include <algorithm>

#include "kernels/select/top_k.h"

namespace minference::kernels {

Selection select_published(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                           std::int64_t vertical, std::int64_t slash) {
  return {top_k(column_sums, std::max(vertical, kMinVertical), kForcedColumns),
          top_k(diagonal_sums, std::max(slash, kMinSlash), kForcedOffsets)};
}

Selection select(const sparse::HeadPattern& head, std::span<const float> column_sums,
                 std::span<const float> diagonal_sums, double column_cost) {
  if (head.pattern == sparse::Pattern::adaptive)
    return select_adaptive(column_sums, diagonal_sums, head.share_ppm * 1e-6, column_cost);
  return select_published(column_sums, diagonal_sums, head.size[0], head.size[1]);
}

}  // namespace minference::kernels
