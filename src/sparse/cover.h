#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace minference::sparse {

// The index contract's cover of slash offsets: U = union over s in offsets of [-s, -s + 64), covered from the
// right by disjoint 64-key tiles [x - 63, x], x the largest key of U not yet covered. Returns the tile starts
// x - 63, descending. `offsets` in any order, duplicates allowed; negative offsets (keys right of the
// diagonal) are legal.
std::vector<std::int32_t> cover_offsets(std::span<const std::int32_t> offsets);

// Columns or offsets ascending, without duplicates.
std::vector<std::int32_t> sorted_unique(std::span<const std::int32_t> members);

}  // namespace minference::sparse
