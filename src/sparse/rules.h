#pragma once

#include <cstdint>

#include "base/host_device.h"

// The rules that CPU and CUDA code share: which pairs a row block computes.
// docs/algorithm.md, "The index contract".
namespace minference::sparse {

inline constexpr std::int64_t kRowBlock = 64;  // query rows a row block
inline constexpr std::int64_t kKeyTile = 64;   // keys a tile

// Most rows and most keys of a call, 2^31 - 128: relative tile starts and offsets fit 32 bits up to here.
inline constexpr std::int64_t kMaxLength = (std::int64_t{1} << 31) - 2 * kKeyTile;

// Position of the call's query row i, in keys: bottom-right aligned.
MINFERENCE_HD constexpr std::int64_t position_of_row(std::int64_t q_len, std::int64_t kv_len,
                                                     std::int64_t row) {
  return kv_len - q_len + row;
}

// Rows of the call at or after this one compute every pair.
MINFERENCE_HD constexpr std::int64_t first_dense_row(std::int64_t q_len, std::int64_t last_dense_rows) {
  return q_len > last_dense_rows ? q_len - last_dense_rows : 0;
}

// Positions first .. last; none when last < first.
struct PositionRange {
  std::int64_t first, last;
};

// Whether a query at position q may attend to key k, apart from tiles and columns.
//   local < 0: no window. Otherwise |q - k| < local, or k < sink (A-shape; exact for every pair).
struct PairRule {
  bool causal = true;
  std::int64_t local = -1;
  std::int64_t sink = 0;

  MINFERENCE_HD constexpr bool allows(std::int64_t q, std::int64_t k) const {
    if (causal && k > q) return false;
    if (local < 0 || k < sink) return true;
    const std::int64_t distance = q > k ? q - k : k - q;
    return distance < local;
  }

  // Whether every pair of queries q_first .. q_last and keys k_first .. k_last is allowed. No range is empty.
  MINFERENCE_HD constexpr bool allows_all(std::int64_t q_first, std::int64_t q_last, std::int64_t k_first,
                                          std::int64_t k_last) const {
    if (causal && k_last > q_first) return false;
    if (local < 0 || k_last < sink) return true;
    const std::int64_t k_windowed = k_first < sink ? sink : k_first;
    return q_last - k_windowed < local && k_last - q_first < local;
  }

  // The queries of q_first .. q_last that may attend to key k.
  MINFERENCE_HD constexpr PositionRange queries_of(std::int64_t k, std::int64_t q_first,
                                                   std::int64_t q_last) const {
    PositionRange range{causal && k > q_first ? k : q_first, q_last};
    if (local < 0 || k < sink) return range;
    if (range.first < k - local + 1) range.first = k - local + 1;
    if (range.last > k + local - 1) range.last = k + local - 1;
    return range;
  }
};

}  // namespace minference::sparse
