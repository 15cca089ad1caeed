#include "mask.h"

namespace minference::ggml {
namespace {

constexpr std::uint16_t kAttends = 0x0000, kMasked = 0xfc00;  // f16 of 0 and -inf
constexpr std::size_t kMaxRuns = 1024;
// Groups that hold fewer rows than this on average are none.
constexpr std::int64_t kMinRowsPerGroup = 16;

// Leading elements that are `value`.
std::int64_t count_leading(const std::uint16_t* x, std::int64_t size, std::uint16_t value) {
  constexpr std::int64_t kBlock = 128;
  std::int64_t i = 0;
  for (; i + kBlock <= size; i += kBlock) {
    std::uint16_t differs = 0;
    for (std::int64_t j = 0; j < kBlock; ++j) differs |= x[i + j] ^ value;
    if (differs) break;
  }
  while (i < size && x[i] == value) ++i;
  return i;
}

bool read_row(const std::uint16_t* row, std::int64_t size, std::vector<KeyRun>& runs) {
  runs.clear();
  for (std::int64_t i = 0;;) {
    i += count_leading(row + i, size - i, kMasked);
    if (i == size) return !runs.empty();
    const std::int64_t count = count_leading(row + i, size - i, kAttends);
    if (count == 0 || runs.size() == kMaxRuns) return false;
    runs.push_back({i, i + count});
    i += count;
  }
}

// Adds the row after the group's last, if it is one of the group.
bool extend(RowGroup& group, const std::vector<KeyRun>& row) {
  if (row.size() != group.keys.size()) return false;
  KeyRun& last = group.keys.back();
  if (row.back().end != last.end + 1) return false;
  for (std::size_t i = 0; i + 1 < row.size(); ++i) {
    if (row[i] != group.keys[i]) return false;
  }
  const std::int64_t begin = row.back().begin;
  if (group.window > 0) {
    if (row.back().end - begin != group.window) return false;
  } else if (begin != last.begin) {
    // The window's first step.
    if (row.size() != 1 || begin != last.begin + 1) return false;
    group.window = row.back().end - begin;
  }
  last.end = row.back().end;
  ++group.num_rows;
  return true;
}

}  // namespace

std::int64_t RowGroup::num_keys() const {
  std::int64_t count = 0;
  for (const KeyRun& run : keys) count += run.end - run.begin;
  return count;
}

bool read_mask(const MaskView& mask, std::vector<RowGroup>& groups) {
  groups.clear();
  std::vector<KeyRun> row;
  const std::int64_t max_groups = mask.num_rows / kMinRowsPerGroup + 1;
  for (std::int64_t i = 0; i < mask.num_rows; ++i) {
    if (!read_row(mask.row(i), mask.num_keys, row)) return false;
    if (!groups.empty() && extend(groups.back(), row)) continue;
    if (static_cast<std::int64_t>(groups.size()) == max_groups) return false;
    groups.push_back({i, 1, row, 0});
  }
  return true;
}

bool looks_like(const MaskView& mask, const std::vector<RowGroup>& groups) {
  for (const RowGroup& group : groups) {
    for (std::int64_t i = 0; i < group.num_rows; ++i) {
      const std::uint16_t* row = mask.row(group.row_begin + i);
      const std::int64_t end = group.keys.back().end - (group.num_rows - 1 - i);
      std::int64_t begin = group.keys.front().begin;
      if (group.window > 0 && end - begin > group.window) begin = end - group.window;
      if (row[begin] != kAttends || row[end - 1] != kAttends) return false;
      if (begin > 0 && row[begin - 1] != kMasked) return false;
      if (end < mask.num_keys && row[end] != kMasked) return false;
    }
  }
  return true;
}

}  // namespace minference::ggml
