#pragma once

#include <cstdint>

namespace minference::prefill {

// Values are those of minference_fallback in the C ABI.
enum class Fallback : std::int32_t { automatic = 0, off = 1 };

// The host gate: whether a call is too short for estimation to pay, from shapes and from what estimation costs beside
// dense attention (kernels::AttentionKernel::estimate_rows) alone.
bool runs_densely(std::int64_t q_len, std::int64_t kv_len, std::int64_t estimate_rows);

}  // namespace minference::prefill
