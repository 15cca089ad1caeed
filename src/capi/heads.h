#pragma once

#include <string>
#include <vector>

#include "minference/minference.h"
#include "prefill/gate.h"
#include "sparse/head_pattern.h"

namespace minference::capi {

// Checks pattern, sizes and share; throws Error naming `name`.field.
sparse::HeadPattern checked_head(const minference_head_pattern& head, const std::string& name);

// The same for each of "heads".
std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads);

// The same, and that there is one a query head and that a non-causal call asks for nothing that needs
// estimation.
std::vector<sparse::HeadPattern> checked_heads(const minference_head_pattern* heads, std::int64_t num_heads,
                                               std::int64_t num_query_heads, bool causal);

prefill::Fallback checked_fallback(std::int32_t fallback);

bool checked_share_index(std::int32_t share_index);

}  // namespace minference::capi
