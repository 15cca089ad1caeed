#pragma once

#include "capi/context.h"
#include "minference/minference.h"
#include "sparse/sparse_index.h"

struct minference_index {
  minference::sparse::SparseIndex index;
};

namespace minference::capi {

// estimate -> select -> index of one checked sequence.
sparse::SparseIndex build_checked_index(const ContextLease& context, const minference_index_args& args);

}  // namespace minference::capi
