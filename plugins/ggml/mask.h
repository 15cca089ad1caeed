#pragma once

#include <cstdint>
#include <vector>

namespace minference::ggml {

struct KeyRun {
  std::int64_t begin, end;
  bool operator==(const KeyRun&) const = default;
};

// Rows [row_begin, row_begin + num_rows) of a mask, one after the other in a sequence: each attends to one key
// more than the row before, the one right after that row's last.
struct RowGroup {
  std::int64_t row_begin = 0, num_rows = 0;
  std::vector<KeyRun> keys;  // ascending, of the last row; with a window, from the first row's first key on
  std::int64_t window = 0;   // above 0: rows attend to no more than their last `window` keys

  std::int64_t num_keys() const;
};

// f16 numbers, 0 where the row attends to the key and -inf where not.
struct MaskView {
  const std::uint16_t* data;
  std::int64_t num_rows, num_keys;
  std::int64_t row_stride;  // elements

  const std::uint16_t* row(std::int64_t i) const { return data + i * row_stride; }
};

// What a mask says. False, with `groups` in pieces, when it is no mask of a few sequences whose keys lie in
// order: it has other numbers, rows without keys, many short groups, or keys in many pieces.
bool read_mask(const MaskView& mask, std::vector<RowGroup>& groups);

// Whether the mask can still be one that was read as `groups`, from a few elements of every row.
bool looks_like(const MaskView& mask, const std::vector<RowGroup>& groups);

}  // namespace minference::ggml
