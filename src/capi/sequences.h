#pragma once

#include <vector>

#include "capi/tensors.h"
#include "minference/minference.h"

namespace minference::capi {

// The call's sequences: those given, each inside the tensors, or every batch entry whole where `given` is
// NULL. Throws Error naming "sequences[i].field".
std::vector<minference_sequence> checked_sequences(const minference_sequence* given, std::int64_t num_given,
                                                   const LayerTensors& layer, bool causal);

// Those that have rows, in order of their query rows; one without any lies in no other's way. Refuses shared
// rows.
std::vector<std::size_t> in_row_order(const std::vector<minference_sequence>& sequences);

// Calls clear(batch, begin, end) for the query rows that belong to no sequence; `order` of in_row_order().
template <class Clear>
void for_each_gap(const LayerTensors& layer, const std::vector<minference_sequence>& sequences,
                  const std::vector<std::size_t>& order, Clear&& clear) {
  std::size_t next = 0;
  for (std::int64_t b = 0; b < layer.batch; ++b) {
    std::int64_t done = 0;
    for (; next < order.size() && sequences[order[next]].batch == b; ++next) {
      const minference_sequence& s = sequences[order[next]];
      if (done < s.q_begin) clear(b, done, s.q_begin);
      done = s.q_begin + s.q_len;
    }
    if (done < layer.q_len) clear(b, done, layer.q_len);
  }
}

}  // namespace minference::capi
