#pragma once

#include <cstdint>

// What the Hopper attention kernel pays for an index, in units of one tile of a dense call: the constants of
// the fallback, and of the adaptive selection's worth of a column. docs/kernels/select-sm90.md, "Costs".
namespace minference::prefill::cuda {

inline constexpr double kCostOfTile = 1.35;
inline constexpr double kCostOfColumn = 1.0 / 64;
inline constexpr double kCostOfSlice = 0.25;
// kernels::AttentionKernel::estimate_rows: two passes of 64 rows.
inline constexpr std::int64_t kEstimateRows = 128;

}  // namespace minference::prefill::cuda
