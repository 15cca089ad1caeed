#include "sparse/shared_heads.h"

#include <algorithm>

namespace minference::sparse {
namespace {

void widen(HeadPattern& pattern, const HeadPattern& other) {
  for (int i = 0; i < 2; ++i) pattern.size[i] = std::max(pattern.size[i], other.size[i]);
  pattern.last_dense_rows = std::max(pattern.last_dense_rows, other.last_dense_rows);
  pattern.share_ppm = std::max(pattern.share_ppm, other.share_ppm);
}

}  // namespace

SharedHeads share_within_groups(std::span<const HeadPattern> heads, std::int64_t group) {
  SharedHeads shared{{heads.begin(), heads.end()}, {}, std::vector<std::int32_t>(heads.size(), -1)};
  std::vector<std::size_t> last(heads.size());  // of the heads so far that a leader leads
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const std::size_t first = h - h % static_cast<std::size_t>(group);
    std::size_t leader = heads[h].pattern == Pattern::dense ? h : first;
    while (heads[leader].pattern != heads[h].pattern) ++leader;
    if (leader < h) {
      shared.next[last[leader]] = static_cast<std::int32_t>(h);
      widen(shared.heads[leader], heads[h]);
    }
    last[leader] = h;
    shared.leader.push_back(static_cast<std::int32_t>(leader));
  }
  for (std::size_t h = 0; h < heads.size(); ++h) shared.heads[h] = shared.heads[shared.leader[h]];
  return shared;
}

}  // namespace minference::sparse
