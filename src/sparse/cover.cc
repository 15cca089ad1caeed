#include "sparse/cover.h"

#include <algorithm>
#include <limits>

#include "sparse/rules.h"

namespace minference::sparse {

std::vector<std::int32_t> cover_offsets(std::span<const std::int32_t> offsets) {
  std::vector<std::int32_t> tiles;
  std::int64_t uncovered_end =
      std::numeric_limits<std::int64_t>::max();  // every key of U at or after it is covered
  for (const std::int64_t offset : sorted_unique(offsets)) {
    // Ascending offsets are bands from right to left, and a tile that ends inside a band reaches past its
    // first key: a band starts at most one tile.
    const std::int64_t band_begin = -offset;
    const std::int64_t last = std::min(band_begin + kKeyTile, uncovered_end) - 1;
    if (last < band_begin) continue;
    uncovered_end = last - kKeyTile + 1;
    tiles.push_back(static_cast<std::int32_t>(uncovered_end));
  }
  tiles.shrink_to_fit();  // kept as long as the index
  return tiles;
}

std::vector<std::int32_t> sorted_unique(std::span<const std::int32_t> members) {
  std::vector<std::int32_t> unique(members.begin(), members.end());
  if (!std::is_sorted(unique.begin(), unique.end())) std::sort(unique.begin(), unique.end());
  unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
  return unique;
}

}  // namespace minference::sparse
