#include "capi/heads.h"

#include <string>

#include "capi/status.h"

namespace minference::capi {

sparse::HeadPattern checked_head(const minference_head_pattern& head, const std::string& name) {
  base::require(head.pattern >= MINFERENCE_DENSE && head.pattern <= MINFERENCE_ADAPTIVE, name + ".pattern",
                "must be a minference_pattern (0 to 4)", head.pattern);
  for (int i = 0; i < 2; ++i)
    base::require(head.size[i] >= 0, name + ".size[" + std::to_string(i) + "]", "must be >= 0", head.size[i]);
  base::require(head.last_dense_rows >= 0, name + ".last_dense_rows", "must be >= 0", head.last_dense_rows);
  if (head.pattern == MINFERENCE_ADAPTIVE)
    base::require(head.share_ppm >= 1 && head.share_ppm <= 1000000, name + ".share_ppm",
                  "must be from 1 to 1000000", head.share_ppm);
  return {static_cast<sparse::Pattern>(head.pattern),
          {head.size[0], head.size[1]},
          head.last_dense_rows,
          head.share_ppm};
}

std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads) {
  if (num_heads > 0) not_null(heads, "heads");
  std::vector<sparse::HeadPattern> checked;
  checked.reserve(static_cast<std::size_t>(num_heads));
  for (std::int64_t i = 0; i < num_heads; ++i)
    checked.push_back(checked_head(heads[i], "heads[" + std::to_string(i) + "]"));
  return checked;
}

std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads,
                                               std::int64_t num_query_heads, bool causal) {
  base::require(num_heads == num_query_heads, "num_heads",
                "must be the number of query heads, " + std::to_string(num_query_heads), num_heads);
  auto checked = checked_heads(heads, num_heads);
  for (std::size_t i = 0; !causal && i < checked.size(); ++i)
    base::require(
        checked[i].pattern != sparse::Pattern::vertical_slash &&
            checked[i].pattern != sparse::Pattern::adaptive,
        "heads[" + std::to_string(i) + "].pattern",
        "must be dense, A-shape or block-sparse when non_causal: vertical-slash estimation is causal",
        static_cast<std::int32_t>(checked[i].pattern));
  return checked;
}

prefill::Fallback checked_fallback(std::int32_t fallback) {
  base::require(fallback == MINFERENCE_FALLBACK_AUTO || fallback == MINFERENCE_FALLBACK_OFF, "fallback",
                "must be MINFERENCE_FALLBACK_AUTO (0) or MINFERENCE_FALLBACK_OFF (1)", fallback);
  return static_cast<prefill::Fallback>(fallback);
}

bool checked_share_index(std::int32_t share_index) {
  base::require(share_index == 0 || share_index == 1, "share_index", "must be 0 or 1", share_index);
  return share_index == 1;
}

}  // namespace minference::capi
