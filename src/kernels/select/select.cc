#include "kernels/select/select.h"

#include <algorithm>

#include "kernels/select/top_k.h"

namespace minference::kernels {

Selection select_published(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                           std::int64_t vertical, std::int64_t slash) {
  return {top_k(column_sums, std::max(vertical, kMinVertical), kForcedColumns),
          top_k(diagonal_sums, std::max(slash, kMinSlash), kForcedOffsets)};
}

}  // namespace minference::kernels
