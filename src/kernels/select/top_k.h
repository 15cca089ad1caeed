#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace minference::kernels {

// Indices of the `count` largest values, ascending, of which the first min(forced, count) indices always are
// part. Ties go to the smaller index, NaN is smaller than every number, and `count` is cut to the number of
// values. O(values), no sort.
std::vector<std::int32_t> top_k(std::span<const float> values, std::int64_t count, std::int64_t forced);

}  // namespace minference::kernels
