#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace minference::sparse {

// Values are those of minference_pattern in the C ABI.
enum class Pattern : std::int32_t {
  dense = 0,
  a_shape = 1,
  vertical_slash = 2,
  block_sparse = 3,
  adaptive = 4
};

// What one query head computes during prefill. The meaning of `size` depends on the pattern:
//   dense           -
//   a_shape         {sink, local}      keys k < sink, or 0 <= q - k < local
//   vertical_slash  {vertical, slash}  columns and diagonals kept, chosen online (published selection)
//   block_sparse    {top_k, -}         64-key blocks kept per 64-row block, chosen online
//   adaptive        {-, -}             vertical-slash members chosen online to keep `share_ppm` of the mass
struct HeadPattern {
  Pattern pattern = Pattern::dense;
  std::int32_t size[2] = {0, 0};
  std::int32_t last_dense_rows = 0;  // the call's last rows that are computed densely
  std::int32_t share_ppm = 950000;   // adaptive only: share of the estimated mass, in parts per million

  friend bool operator==(const HeadPattern&, const HeadPattern&) = default;
};

// The head patterns of one model: heads[layer * num_query_heads + head]. Immutable once made.
struct PatternSet {
  std::vector<std::string> models;  // hub ids the patterns were found for; may be empty
  std::string source;               // provenance, free text
  std::int64_t num_layers = 0;
  std::int64_t num_query_heads = 0;
  std::vector<HeadPattern> heads;

  const HeadPattern& at(std::int64_t layer, std::int64_t head) const {
    return heads[static_cast<std::size_t>(layer * num_query_heads + head)];
  }

  friend bool operator==(const PatternSet&, const PatternSet&) = default;
};

}  // namespace minference::sparse
