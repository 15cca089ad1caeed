#pragma once

#include <vector>

#include "minference/minference.h"
#include "prefill/gate.h"
#include "sparse/head_pattern.h"

namespace minference::capi {

// Checks pattern, sizes and share of each; throws Error naming "heads[i].field".
std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads);

// The same, and that there is one a query head and that a non-causal call asks for nothing that needs
// estimation.
std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads,
                                               std::int64_t num_query_heads, bool causal);

prefill::Fallback checked_fallback(std::int32_t fallback);

}  // namespace minference::capi
