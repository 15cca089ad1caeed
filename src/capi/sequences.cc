#include "capi/sequences.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace minference::capi {
namespace {

std::string of(std::int64_t i, const char* field) {
  return "sequences[" + std::to_string(i) + "]." + field;
}

void check_range(std::int64_t begin, std::int64_t length, std::int64_t size, std::int64_t i,
                 const char* begin_name, const char* length_name) {
  base::require(begin >= 0 && begin <= size, of(i, begin_name), "must be from 0 to " + std::to_string(size),
                begin);
  base::require(length >= 0 && length <= size - begin, of(i, length_name),
                "must be from 0 to " + std::to_string(size - begin), length);
}

}  // namespace

std::vector<minference_sequence> checked_sequences(const minference_sequence* given, std::int64_t num_given,
                                                   const LayerTensors& layer, bool causal) {
  std::vector<minference_sequence> sequences;
  if (!given) {
    base::require(num_given == 0, "num_sequences", "must be 0 when sequences is NULL", num_given);
    for (std::int64_t b = 0; b < layer.batch; ++b) sequences.push_back({b, 0, layer.q_len, 0, layer.kv_len});
  } else {
    base::require(num_given >= 0 && num_given <= std::numeric_limits<std::int32_t>::max(), "num_sequences",
                  "must be from 0 to 2^31 - 1", num_given);
    sequences.assign(given, given + num_given);
  }
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(sequences.size()); ++i) {
    const auto& s = sequences[static_cast<std::size_t>(i)];
    base::require(s.batch >= 0 && s.batch < layer.batch, of(i, "batch"),
                  "must be from 0 to " + std::to_string(layer.batch - 1), s.batch);
    check_range(s.q_begin, s.q_len, layer.q_len, i, "q_begin", "q_len");
    check_range(s.kv_begin, s.kv_len, layer.kv_len, i, "kv_begin", "kv_len");
    if (causal)
      base::require(s.q_len <= s.kv_len, given ? of(i, "q_len") : "query.shape[2]",
                    "must be <= kv_len = " + std::to_string(s.kv_len) + " when causal", s.q_len);
  }
  return sequences;
}

std::vector<std::size_t> in_row_order(const std::vector<minference_sequence>& sequences) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < sequences.size(); ++i)
    if (sequences[i].q_len > 0) order.push_back(i);
  const auto key = [&](std::size_t i) { return std::pair(sequences[i].batch, sequences[i].q_begin); };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto &before = sequences[order[i - 1]], &after = sequences[order[i]];
    base::require(before.batch != after.batch || before.q_begin + before.q_len <= after.q_begin,
                  of(static_cast<std::int64_t>(order[i]), "q_begin"),
                  "must not lie inside another sequence's rows", after.q_begin);
  }
  return order;
}

}  // namespace minference::capi
