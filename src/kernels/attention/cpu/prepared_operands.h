#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/cpu/slice_kernel.h"

namespace minference::kernels {

// Operands of consecutive keys; pitches in bytes. A null pointer: not prepared.
struct KeyValueOperands {
  const char* key = nullptr;
  std::int64_t key_pitch = 0;
  const char* value = nullptr;
  std::int64_t value_pitch = 0;
};

// Row of a tensor of any type.
const void* row_of(const base::InputHeads& x, std::int64_t head, std::int64_t row);

// Keys and values as operands, made once and read by every row slice: of whole KV heads, unless their rows
// are operands as they are, and of each query head's columns, side by side. Memory is bounded: KV heads are
// prepared in waves, one head at least, that fit kBytes, and long lists of columns are left to the slices.
class PreparedOperands {
 public:
  // 128K keys of two heads of 64 bf16.
  static constexpr std::int64_t kBytes = 32 << 20;

  PreparedOperands(const AttentionCall& call, const SliceKernel& kernel);

  std::int64_t heads_a_wave() const { return heads_a_wave_; }

  // The work of preparing the KV heads [first, first + num_heads), in independent tasks.
  std::int64_t num_tasks(std::int64_t num_heads) const;
  void run_task(std::int64_t first, std::int64_t num_heads, std::int64_t task);

  // Operands from key `begin` of a prepared head. Values are null where they pair up in the way that is not
  // prepared.
  KeyValueOperands keys_from(std::int64_t kv_head, std::int64_t begin) const;

  // Operands of columns [64 chunk, 64 chunk + 64) of a query head's list, zeros after its end; null when left
  // out.
  KeyValueOperands columns_of(std::int64_t head, std::int64_t chunk) const;

  // head_dim zeros of any type.
  const void* zero_row() const { return zero_row_.data(); }

 private:
  void prepare_keys(std::int64_t kv_head, std::int64_t chunk);
  void prepare_columns(std::int64_t head, std::int64_t chunk);
  Operand* head_begin(std::int64_t kv_head) {
    return buffer_.data() + kv_head % heads_a_wave_ * head_operands_;
  }
  const Operand* head_begin(std::int64_t kv_head) const {
    return buffer_.data() + kv_head % heads_a_wave_ * head_operands_;
  }
  std::int64_t columns_begin(std::int64_t head) const;  // operands from head_begin()

  const AttentionCall& call_;
  const SliceKernel& kernel_;
  std::int64_t group_;
  bool keys_in_place_, values_in_place_, has_odd_values_;
  // In operands, of one KV head: keys, values of pairs (0, 1), (2, 3), ..., values of pairs (1, 2), (3, 4),
  // ..., columns.
  std::int64_t key_operands_, value_operands_, head_operands_ = 0;
  std::int64_t heads_a_wave_ = 1;
  std::vector<std::int64_t> column_chunks_;  // of each query head
  std::int64_t max_column_chunks_ = 0;
  base::AlignedBuffer<Operand> buffer_;
  std::vector<float> zero_row_;
};

}  // namespace minference::kernels
