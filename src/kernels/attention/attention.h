#pragma once

#include <span>

#include "base/executor.h"
#include "base/isa.h"
#include "base/tensor.h"
#include "sparse/sparse_index.h"

namespace minference::kernels {

// One sequence, all heads: for query head h and row r at position p = kv_len - q_len + r, over the keys k
// that index->heads[h] lists for (r, k):
//
//   s_k       = softmax_scale * <query[h, r], key[h / group, k]>
//   lse[h, r] = log sum_k exp(s_k)
//   out[h, r] = sum_k exp(s_k - lse[h, r]) value[h / group, k]
//
// with group = query.heads / key.heads. A row that lists no key gives out = 0 and lse = -inf. Every row of
// out (and of lse when wanted) is written; nothing else is. Inputs share one dtype; out has it too; scores,
// softmax and sums are f32 (the scale is applied to f32 scores, never folded into a rounded query; f16 is
// never rounded to bf16), and a subnormal f32 counts as zero. out aliases no input. Same inputs, same bits, whatever the number of workers.
//
// Inputs are finite. Kernels multiply whole tiles, and a masked pair's probability of 0 does not undo a value
// that is not finite: it may turn rows that do not list its key to NaN, but only rows of a slice that has the
// key for others (right of the diagonal in the diagonal's tile, columns inside the slice), or, on AMX, a key of
// the same 32. Rows of slices before the key never see it.
struct AttentionCall {
  base::InputHeads query;  // [num_query_heads, q_len, head_dim]
  base::InputHeads key;    // [num_kv_heads, kv_len, head_dim]
  base::InputHeads value;  // [num_kv_heads, kv_len, head_dim]
  base::OutputHeads out;   // [num_query_heads, q_len, head_dim]
  base::RowsView lse;      // [num_query_heads, q_len], natural log; data == nullptr: not wanted
  float softmax_scale = 1.0f;
  const sparse::SparseIndex* index = nullptr;
};

// One row of the table. Cost constants are in units of one full 64 x 64 tile of the same kernel and are what
// the dense fallback compares (docs/algorithm.md, "Never slower than dense").
struct AttentionKernel {
  const char* name;
  base::Isa required;
  bool (*supports)(base::DType dtype, std::int64_t head_dim);
  // Throws Error(out_of_memory) before writing anything, nothing else.
  void (*run)(const AttentionCall& call, base::Executor& executor);
  double cost_of_column;  // one gathered column of one row block
  double cost_of_run;     // tiles side by side, at any key: what a row slice pays beside the tiles
  double cost_of_slice;   // fixed cost of a row slice
  // What estimation and selection cost beside this kernel: as much as dense attention of so many rows.
  std::int64_t estimate_rows;
};

// Every compiled kernel, best first; the last one is portable, supports everything and always runs.
// Dispatch, the fallback's constants, tests and benchmarks all read this one table.
std::span<const AttentionKernel> attention_kernels();

// The first row that `isa` can run and that supports the shape.
const AttentionKernel& select_attention(base::Isa isa, base::DType dtype, std::int64_t head_dim);

}  // namespace minference::kernels
