#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/cpu/kernels.h"

namespace minference::kernels::portable {
namespace {

// The softmax of one query row, kept while its keys go by: everything is relative to the largest score so
// far.
struct RowState {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;
  std::vector<float> out;

  void reset(std::int64_t head_dim) {
    max = -std::numeric_limits<float>::infinity();
    sum = 0;
    out.assign(static_cast<std::size_t>(head_dim), 0.0f);
  }
};

struct Worker {
  sparse::RowSliceKeys keys;
  RowState row;
};

void attend(const AttentionCall& call, std::int64_t head, std::int64_t row, std::int64_t key,
            RowState& state) {
  const std::int64_t kv_head = head / (call.query.heads / call.key.heads);
  const auto element = [](const base::InputHeads& x, std::int64_t h, std::int64_t r, std::int64_t d) {
    return base::load_float(x.data, x.dtype, h * x.head_stride + r * x.row_stride + d);
  };
  float score = 0;
  for (std::int64_t d = 0; d < call.query.dim; ++d) {
    score += element(call.query, head, row, d) * element(call.key, kv_head, key, d);
  }
  score *= call.softmax_scale;
  if (score > state.max) {
    const float decay = std::exp(state.max - score);
    state.max = score;
    state.sum *= decay;
    for (float& x : state.out) x *= decay;
  }
  const float probability = std::exp(score - state.max);
  state.sum += probability;
  for (std::int64_t d = 0; d < call.query.dim; ++d) {
    state.out[static_cast<std::size_t>(d)] += probability * element(call.value, kv_head, key, d);
  }
}

}  // namespace

void attention(const AttentionCall& call, base::Executor& executor) {
  const sparse::SparseIndex& index = *call.index;
  std::vector<Worker> workers(static_cast<std::size_t>(executor.num_workers()));
  for (Worker& worker : workers) {
    sparse::reserve_keys(index, worker.keys);
    worker.row.reset(call.query.dim);
  }
  for (std::int64_t head = 0; head < call.query.heads; ++head) {
    const auto slices =
        sparse::row_slices(index.q_len, index.heads[static_cast<std::size_t>(head)].last_dense_rows);
    const auto num_slices = static_cast<std::int64_t>(slices.size());
    executor.parallel_for(num_slices, [&](std::int64_t i, int worker_index) {
      auto& [keys, state] = workers[static_cast<std::size_t>(worker_index)];
      const sparse::RowSlice& slice = slices[static_cast<std::size_t>(num_slices - 1 - i)];
      sparse::keys_of_slice(index, head, slice, keys);
      for (std::int64_t row = slice.begin; row < slice.end; ++row) {
        const std::int64_t position = sparse::position_of_row(index.q_len, index.kv_len, row);
        state.reset(call.query.dim);
        for (const sparse::KeyTile& tile : keys.tiles) {
          for (std::int64_t key = tile.begin; key < tile.begin + tile.count; ++key) {
            if (keys.rule.allows(position, key)) attend(call, head, row, key, state);
          }
        }
        for (const std::int32_t key : keys.columns) {
          if (keys.rule.allows(position, key)) attend(call, head, row, key, state);
        }
        const std::int64_t start = head * call.out.head_stride + row * call.out.row_stride;
        for (std::int64_t d = 0; d < call.query.dim; ++d) {
          const float x = state.out[static_cast<std::size_t>(d)];
          base::store_float(call.out.data, call.out.dtype, start + d, state.sum > 0 ? x / state.sum : 0.0f);
        }
        if (call.lse.data) call.lse.at(head, row) = state.max + std::log(state.sum);
      }
    });
  }
}

}  // namespace minference::kernels::portable
