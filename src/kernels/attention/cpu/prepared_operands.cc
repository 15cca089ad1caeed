#include "kernels/attention/cpu/prepared_operands.h"

#include <algorithm>

namespace minference::kernels {
namespace {

constexpr std::int64_t kOperandBytes = sizeof(Operand);
// Keys of one task; even.
constexpr std::int64_t kTaskKeys = 512;

// Whether many tiles begin at odd keys. Those of whole ranges are laid from the right: from the last row of a
// row block when causal, from the last key when not.
bool has_odd_tiles(const sparse::SparseIndex& index) {
  const bool odd_origin = sparse::position_of_row(index.q_len, index.kv_len, 0) % 2 != 0;
  const bool odd_length = index.kv_len % 2 != 0;
  return std::any_of(index.heads.begin(), index.heads.end(), [&](const sparse::HeadIndex& head) {
    if (head.form == sparse::IndexForm::blocks) return false;
    if (head.form == sparse::IndexForm::all && !index.causal) return odd_length;
    if (head.form != sparse::IndexForm::relative) return odd_origin;
    const auto is_odd = [&](std::int32_t start) { return (start % 2 != 0) != odd_origin; };
    return std::any_of(head.tiles.begin(), head.tiles.end(), is_odd);
  });
}

}  // namespace

const void* row_of(const base::InputHeads& x, std::int64_t head, std::int64_t row) {
  const std::int64_t element = head * x.head_stride + row * x.row_stride;
  return static_cast<const char*>(x.data) + element * static_cast<std::int64_t>(base::size_of(x.dtype));
}

PreparedOperands::PreparedOperands(const AttentionCall& call, const SliceKernel& kernel)
    : call_(call),
      kernel_(kernel),
      group_(call.query.heads / call.key.heads),
      keys_in_place_(call.key.dtype == kernel.operand_type),
      values_in_place_(keys_in_place_ && kernel.pack == 1) {
  const std::int64_t dim = call.key.dim;
  // A second slice must use what is prepared for it to be worth preparing.
  const bool has_slices = call.query.rows > kSliceRows;
  has_odd_values_ = kernel.pack == 2 && has_slices && has_odd_tiles(*call.index);
  key_operands_ = keys_in_place_ ? 0 : call.key.rows * dim / kernel.pack;
  value_operands_ = values_in_place_ ? 0 : (call.key.rows + kernel.pack - 1) / kernel.pack * dim;

  std::int64_t column_operands = 0;
  const std::int64_t max_columns = kBytes / 4 / group_ / (2 * dim / kernel.pack * kOperandBytes);
  for (std::int64_t kv_head = 0; kv_head < call.key.heads; ++kv_head) {
    std::int64_t chunks = 0;
    for (std::int64_t i = 0; i < group_; ++i) {
      const auto count = static_cast<std::int64_t>(call.index->heads[kv_head * group_ + i].columns.size());
      column_chunks_.push_back(has_slices && count <= max_columns ? (count + kTileKeys - 1) / kTileKeys : 0);
      chunks += column_chunks_.back();
      max_column_chunks_ = std::max(max_column_chunks_, column_chunks_.back());
    }
    column_operands = std::max(column_operands, chunks * kTileKeys * dim / kernel.pack * 2);
  }

  head_operands_ = key_operands_ + (has_odd_values_ ? 2 : 1) * value_operands_ + column_operands;
  heads_a_wave_ = call.key.heads;
  if (head_operands_ > 0) {
    heads_a_wave_ = std::clamp(kBytes / (head_operands_ * kOperandBytes), std::int64_t{1}, call.key.heads);
  }
  buffer_ = base::AlignedBuffer<Operand>(static_cast<std::size_t>(heads_a_wave_ * head_operands_));
  zero_row_.assign(static_cast<std::size_t>(dim), 0.0f);
}

std::int64_t PreparedOperands::num_tasks(std::int64_t num_heads) const {
  const bool has_keys = key_operands_ + value_operands_ > 0;
  const std::int64_t key_tasks = has_keys ? (call_.key.rows + kTaskKeys - 1) / kTaskKeys : 0;
  return num_heads * (key_tasks + group_ * max_column_chunks_);
}

void PreparedOperands::run_task(std::int64_t first, std::int64_t num_heads, std::int64_t task) {
  const std::int64_t column_tasks = num_heads * group_ * max_column_chunks_;
  if (task < column_tasks) {
    const std::int64_t head = first * group_ + task / max_column_chunks_;
    const std::int64_t chunk = task % max_column_chunks_;
    if (chunk < column_chunks_[head]) prepare_columns(head, chunk);
  } else {
    prepare_keys(first + (task - column_tasks) % num_heads, (task - column_tasks) / num_heads);
  }
}

void PreparedOperands::prepare_keys(std::int64_t kv_head, std::int64_t chunk) {
  const base::DType type = call_.key.dtype;
  const int dim = static_cast<int>(call_.key.dim);
  Operand* keys = head_begin(kv_head);
  Operand* values = keys + key_operands_;
  Operand* odd_values = values + value_operands_;
  const auto value_row = [&](std::int64_t k) {
    return k < call_.value.rows ? row_of(call_.value, kv_head, k) : zero_row();
  };
  const std::int64_t end = std::min((chunk + 1) * kTaskKeys, call_.key.rows);
  for (std::int64_t k = chunk * kTaskKeys; k < end; ++k) {
    if (!keys_in_place_) {
      kernel_.pack_key(type, row_of(call_.key, kv_head, k), dim, keys + k * dim / kernel_.pack);
    }
    if (values_in_place_) continue;
    if (kernel_.pack == 1) {
      kernel_.pack_key(type, value_row(k), dim, values + k * dim);
    } else if (k % 2 == 0) {
      kernel_.pack_values(type, value_row(k), value_row(k + 1), dim, values + k / 2 * dim);
    } else if (has_odd_values_) {
      kernel_.pack_values(type, value_row(k), value_row(k + 1), dim, odd_values + k / 2 * dim);
    }
  }
}

void PreparedOperands::prepare_columns(std::int64_t head, std::int64_t chunk) {
  const std::vector<std::int32_t>& columns = call_.index->heads[head].columns;
  const std::int64_t kv_head = head / group_;
  const int dim = static_cast<int>(call_.key.dim);
  const auto row = [&](const base::InputHeads& x, std::int64_t i) {
    return i < static_cast<std::int64_t>(columns.size()) ? row_of(x, kv_head, columns[i]) : zero_row();
  };
  Operand* keys = head_begin(kv_head) + columns_begin(head);
  Operand* values = keys + column_chunks_[head] * kTileKeys * dim / kernel_.pack;
  for (std::int64_t i = chunk * kTileKeys; i < (chunk + 1) * kTileKeys; i += 2) {
    kernel_.pack_key(call_.key.dtype, row(call_.key, i), dim, keys + i * dim / kernel_.pack);
    kernel_.pack_key(call_.key.dtype, row(call_.key, i + 1), dim, keys + (i + 1) * dim / kernel_.pack);
    kernel_.pack_values(call_.key.dtype, row(call_.value, i), row(call_.value, i + 1), dim,
                        values + i * dim / kernel_.pack);
  }
}

std::int64_t PreparedOperands::columns_begin(std::int64_t head) const {
  std::int64_t chunks = 0;
  for (std::int64_t h = head / group_ * group_; h < head; ++h) chunks += column_chunks_[h];
  return key_operands_ + (has_odd_values_ ? 2 : 1) * value_operands_ +
         chunks * kTileKeys * call_.key.dim / kernel_.pack * 2;
}

KeyValueOperands PreparedOperands::keys_from(std::int64_t kv_head, std::int64_t begin) const {
  const std::int64_t row_bytes = call_.key.dim * kOperandBytes;
  const auto* keys = reinterpret_cast<const char*>(head_begin(kv_head));
  KeyValueOperands operands{.key = keys + begin * (row_bytes / kernel_.pack),
                            .key_pitch = row_bytes / kernel_.pack,
                            .value = keys + key_operands_ * kOperandBytes + begin / kernel_.pack * row_bytes,
                            .value_pitch = row_bytes};
  const auto size = static_cast<std::int64_t>(base::size_of(call_.key.dtype));
  if (keys_in_place_) {
    operands.key = static_cast<const char*>(row_of(call_.key, kv_head, begin));
    operands.key_pitch = call_.key.row_stride * size;
  }
  if (values_in_place_) {
    operands.value = static_cast<const char*>(row_of(call_.value, kv_head, begin));
    operands.value_pitch = call_.value.row_stride * size;
  }
  if (begin % kernel_.pack != 0) {
    operands.value = has_odd_values_ ? operands.value + value_operands_ * kOperandBytes : nullptr;
  }
  return operands;
}

KeyValueOperands PreparedOperands::columns_of(std::int64_t head, std::int64_t chunk) const {
  if (chunk >= column_chunks_[head]) return {};
  const std::int64_t row_bytes = call_.key.dim * kOperandBytes;
  const Operand* keys = head_begin(head / group_) + columns_begin(head);
  const Operand* values = keys + column_chunks_[head] * kTileKeys * call_.key.dim / kernel_.pack;
  const std::int64_t chunk_bytes = kTileKeys / kernel_.pack * row_bytes;
  return {.key = reinterpret_cast<const char*>(keys) + chunk * chunk_bytes,
          .key_pitch = row_bytes / kernel_.pack,
          .value = reinterpret_cast<const char*>(values) + chunk * chunk_bytes,
          .value_pitch = row_bytes};
}

}  // namespace minference::kernels
