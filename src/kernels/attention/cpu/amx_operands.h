#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/cpu/amx_layout.h"

// The memory that tile instructions read keys and values from.
namespace minference::kernels::amx {

constexpr std::int64_t round_up(std::int64_t x, std::int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// Keys and values of the KV heads of one round, packed once for all rows of all their query heads, and the
// query heads' columns, gathered. A round is as many KV heads as fit a bound of memory, and at least one.
class PackedOperands {
 public:
  PackedOperands(const AttentionCall& call, const Stages& stages);

  std::int64_t padded_dim() const { return padded_dim_; }
  std::int64_t end_of_round(std::int64_t first_kv_head) const;

  // Packs the KV heads [first, end), a round.
  void pack(std::int64_t first_kv_head, std::int64_t end_kv_head, base::Executor& executor);

  // Keys [32 block, 32 block + 32); those after the last are zeros.
  const std::byte* block(std::int64_t kv_head, std::int64_t block) const {
    return packed_.data() + (kv_head % heads_a_round_ * num_blocks_ + block) * unit_bytes(padded_dim_);
  }
  // Columns [32 unit, 32 unit + 32) of a query head.
  const std::byte* columns(std::int64_t head, std::int64_t unit) const {
    return columns_.data() + first_column_unit_[static_cast<std::size_t>(head)] +
           unit * unit_bytes(padded_dim_);
  }
  // Packs any 32 keys; kNoKey gives zeros.
  void gather(std::int64_t kv_head, const std::int32_t* positions, std::byte* unit) const;

 private:
  void pack_block(std::int64_t kv_head, std::int64_t block);

  const AttentionCall& call_;
  const Stages& stages_;
  std::int64_t padded_dim_, num_blocks_, heads_a_round_;
  base::AlignedBuffer<std::byte> packed_;
  base::AlignedBuffer<std::byte> columns_;
  std::vector<std::int64_t> first_column_unit_;  // of each query head, in bytes
};

inline constexpr std::int32_t kNoKey = INT32_MAX;

}  // namespace minference::kernels::amx
