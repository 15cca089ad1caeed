#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sparse/head_pattern.h"

namespace minference::kernels {

// Constants of MInference 1.0's released code (github.com/microsoft/MInference, the run-time path).
inline constexpr std::int64_t kForcedColumns = 30;   // keys 0..29 are always kept
inline constexpr std::int64_t kForcedOffsets = 100;  // diagonals 0..99 are always kept
inline constexpr std::int64_t kMinVertical = 30;
inline constexpr std::int64_t kMinSlash = 50;

// Key positions and query-minus-key offsets kept for one head. Ascending, unique.
struct Selection {
  std::vector<std::int32_t> columns;
  std::vector<std::int32_t> offsets;
};

// Published selection: the `vertical` largest column sums and the `slash` largest diagonal sums. Budgets are
// raised to kMinVertical / kMinSlash and cut to kv_len; forced members count inside the budget, and a slash
// budget below kForcedOffsets takes the smallest offsets. Ties go to the smaller position or offset.
// `column_sums`, `diagonal_sums`: [kv_len], of the estimate.
Selection select_published(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                           std::int64_t vertical, std::int64_t slash);

// Adaptive selection: single columns and bands of 64 adjacent offsets in the order of their own mass per
// cost, until together they surely keep `share` (0..1) of the mass of the rows behind the sums, however these
// lie in the call's row blocks. Forced members are kept as above, and so are the 128 columns with the most
// mass of their own; a share of 1, or NaN in the diagonal sums, keeps every diagonal and so every pair.
// `column_cost`: cost of one column of a row block in units of a 64 x 64 tile, above 0.
// docs/algorithm.md, "Selection: adaptive".
Selection select_adaptive(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                          double share, double column_cost);

// What a head's pattern, vertical-slash or adaptive, selects.
Selection select(const sparse::HeadPattern& head, std::span<const float> column_sums,
                 std::span<const float> diagonal_sums, double column_cost);

}  // namespace minference::kernels
