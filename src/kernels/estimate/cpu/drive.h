#pragma once

#include "kernels/estimate/cpu/steps.h"

namespace minference::kernels::estimate {

// Runs an estimation in two passes over the keys: the first finds each row's log-sum-exp, the second computes
// the scores again and adds up the probabilities. Scores are never stored beyond a block: scratch is
// O(num_query_heads * 64 * head_dim), whatever kv_len. Keys are cut into chunks by kv_len alone and every sum
// has a fixed order, so the bits do not depend on the number of workers. Throws Error(out_of_memory) before
// writing anything.
void drive(const Steps& steps, const EstimateCall& call, base::Executor& executor);

}  // namespace minference::kernels::estimate
