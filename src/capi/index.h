#pragma once

#include "minference/minference.h"
#include "sparse/sparse_index.h"

struct minference_index {
  minference::sparse::SparseIndex index;
};
