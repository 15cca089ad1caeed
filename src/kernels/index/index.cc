#include "kernels/index/index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "sparse/cover.h"

namespace minference::kernels {
namespace {

using sparse::kKeyTile;
using sparse::kMaxLength;
using sparse::kRowBlock;

void check_lengths(std::int64_t q_len, std::int64_t kv_len, bool causal) {
  const std::string at_most = "must be in [0, " + std::to_string(kMaxLength) + "]";
  base::require(q_len >= 0 && q_len <= kMaxLength, "q_len", at_most, q_len);
  base::require(kv_len >= 0 && kv_len <= kMaxLength, "kv_len", at_most, kv_len);
  base::require(!causal || q_len <= kv_len, "q_len",
                "must be at most kv_len (" + std::to_string(kv_len) + ")", q_len);
}

void check_members(const char* name, std::span<const std::int32_t> members, std::int64_t begin,
                   std::int64_t end) {
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i] >= begin && members[i] < end) continue;
    base::refuse(std::string(name) + "[" + std::to_string(i) + "]",
                 "must be in [" + std::to_string(begin) + ", " + std::to_string(end) + ")", members[i]);
  }
}

float dot(const float* a, const float* b, std::int64_t size) {
  // Eight running sums, so that the compiler may use vectors without reordering a sum.
  constexpr int kLanes = 8;
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < size; ++i) sums[0] += a[i] * b[i];
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

struct ScoredBlock {
  float score;
  std::int32_t block;
};

}  // namespace

sparse::HeadIndex index_vertical_slash(std::span<const std::int32_t> columns,
                                       std::span<const std::int32_t> offsets, std::int64_t q_len,
                                       std::int64_t kv_len, bool causal) {
  check_lengths(q_len, kv_len, causal);
  check_members("columns", columns, 0, kv_len);
  check_members("offsets", offsets, causal ? 0 : 1 - q_len, kv_len);
  sparse::HeadIndex head;
  head.form = sparse::IndexForm::relative;
  head.tiles = sparse::cover_offsets(offsets);
  head.columns = sparse::sorted_unique(columns);
  return head;
}

sparse::HeadIndex index_a_shape(std::int64_t sink, std::int64_t local) {
  base::require(sink >= 0, "sink", "must be at least 0", sink);
  base::require(local >= 0, "local", "must be at least 0", local);
  sparse::HeadIndex head;
  head.form = sparse::IndexForm::window;
  head.sink = sink;
  head.local = std::min(local, kMaxLength);  // no two positions of a call are further apart
  return head;
}

sparse::HeadIndex index_block_sparse(const float* pooled_query, const float* pooled_key, std::int64_t dim,
                                     std::int64_t top_k, std::int64_t q_len, std::int64_t kv_len,
                                     bool causal) {
  check_lengths(q_len, kv_len, causal);
  base::require(top_k >= 0, "top_k", "must be at least 0", top_k);
  sparse::HeadIndex head;
  const std::int64_t key_blocks = (kv_len + kKeyTile - 1) / kKeyTile;
  if (top_k >= key_blocks) return head;  // form all

  head.form = sparse::IndexForm::blocks;
  head.row_offsets.push_back(0);
  std::vector<ScoredBlock> candidates;
  for (const sparse::RowSlice& slice : sparse::row_slices(q_len, 0)) {
    const std::int64_t first = sparse::position_of_row(q_len, kv_len, slice.begin);
    const std::int64_t last = sparse::position_of_row(q_len, kv_len, slice.end - 1);
    const float* query = pooled_query + slice.block * dim;
    const auto is_forced = [&](std::int64_t j) {
      return j == 0 || (j * kKeyTile <= last && j * kKeyTile + kKeyTile > first);
    };
    candidates.clear();
    std::int64_t forced = 0;
    for (std::int64_t j = 0; j < (causal ? last / kKeyTile + 1 : key_blocks); ++j) {
      if (is_forced(j)) {
        ++forced;
        head.key_blocks.push_back(static_cast<std::int32_t>(j));
        continue;
      }
      const float score = dot(query, pooled_key + j * dim, dim);
      // NaN has no place in an order; it comes last.
      candidates.push_back({std::isnan(score) ? -std::numeric_limits<float>::infinity() : score,
                            static_cast<std::int32_t>(j)});
    }
    const std::int64_t kept = std::clamp<std::int64_t>(top_k - forced, 0, std::ssize(candidates));
    std::nth_element(candidates.begin(), candidates.begin() + kept, candidates.end(),
                     [](const ScoredBlock& a, const ScoredBlock& b) {
                       return a.score > b.score || (a.score == b.score && a.block < b.block);
                     });
    for (std::int64_t i = 0; i < kept; ++i) head.key_blocks.push_back(candidates[i].block);
    std::sort(head.key_blocks.begin() + head.row_offsets.back(), head.key_blocks.end());
    head.row_offsets.push_back(std::ssize(head.key_blocks));
  }
  return head;
}

}  // namespace minference::kernels
