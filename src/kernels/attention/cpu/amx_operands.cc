#include "kernels/attention/cpu/amx_operands.h"

#include <algorithm>

namespace minference::kernels::amx {
namespace {

using base::bfloat16;

// Little enough for glibc's malloc to keep the memory from call to call (up to 32 MiB): page faults cost as
// much as packing.
constexpr std::int64_t kPackedBytesARound = std::int64_t{24} << 20;

// Packing is done in pieces of this many blocks.
constexpr std::int64_t kPieceBlocks = 8;

alignas(64) constexpr bfloat16 kZeroRow[kMaxHeadDim] = {};

std::int64_t num_column_units(const sparse::HeadIndex& head) {
  return (static_cast<std::int64_t>(head.columns.size()) + kUnitKeys - 1) / kUnitKeys;
}

}  // namespace

PackedOperands::PackedOperands(const AttentionCall& call, const Stages& stages)
    : call_(call),
      stages_(stages),
      padded_dim_(round_up(call.query.dim, kDimStep)),
      num_blocks_((call.key.rows + kUnitKeys - 1) / kUnitKeys),
      heads_a_round_(std::clamp<std::int64_t>(
          kPackedBytesARound / std::max<std::int64_t>(num_blocks_ * unit_bytes(padded_dim_), 1), 1,
          call.key.heads)),
      packed_(static_cast<std::size_t>(heads_a_round_ * num_blocks_ * unit_bytes(padded_dim_))) {
  const std::int64_t group = call.query.heads / call.key.heads;
  std::int64_t most_bytes = 0;
  for (std::int64_t kv_head = 0; kv_head < call.key.heads; kv_head = end_of_round(kv_head)) {
    std::int64_t bytes = 0;
    for (std::int64_t head = kv_head * group; head < end_of_round(kv_head) * group; ++head) {
      first_column_unit_.push_back(bytes);
      bytes += num_column_units(call.index->heads[static_cast<std::size_t>(head)]) * unit_bytes(padded_dim_);
    }
    most_bytes = std::max(most_bytes, bytes);
  }
  columns_ = base::AlignedBuffer<std::byte>(static_cast<std::size_t>(most_bytes));
}

std::int64_t PackedOperands::end_of_round(std::int64_t first_kv_head) const {
  return std::min(first_kv_head + heads_a_round_, call_.key.heads);
}

void PackedOperands::pack(std::int64_t first_kv_head, std::int64_t end_kv_head, base::Executor& executor) {
  const std::int64_t num_pieces = (num_blocks_ + kPieceBlocks - 1) / kPieceBlocks;
  executor.parallel_for((end_kv_head - first_kv_head) * num_pieces, [&](std::int64_t i, int) {
    const std::int64_t begin = i % num_pieces * kPieceBlocks;
    const std::int64_t end = std::min(begin + kPieceBlocks, num_blocks_);
    for (std::int64_t block = begin; block < end; ++block) pack_block(first_kv_head + i / num_pieces, block);
  });
  const std::int64_t group = call_.query.heads / call_.key.heads;
  for (std::int64_t head = first_kv_head * group; head < end_kv_head * group; ++head) {
    const sparse::HeadIndex& index = call_.index->heads[static_cast<std::size_t>(head)];
    executor.parallel_for(num_column_units(index), [&](std::int64_t unit, int) {
      std::int32_t positions[kUnitKeys];
      const std::int64_t begin = unit * kUnitKeys;
      const auto count = std::min<std::int64_t>(kUnitKeys, std::ssize(index.columns) - begin);
      std::fill(std::copy_n(index.columns.begin() + begin, count, positions), std::end(positions), kNoKey);
      gather(head / group, positions,
             columns_.data() + first_column_unit_[static_cast<std::size_t>(head)] +
                 unit * unit_bytes(padded_dim_));
    });
  }
}

void PackedOperands::pack_block(std::int64_t kv_head, std::int64_t block) {
  std::int32_t positions[kUnitKeys];
  for (std::int64_t i = 0; i < kUnitKeys; ++i) {
    const std::int64_t position = block * kUnitKeys + i;
    positions[i] = position < call_.key.rows ? static_cast<std::int32_t>(position) : kNoKey;
  }
  gather(kv_head, positions,
         packed_.data() + (kv_head % heads_a_round_ * num_blocks_ + block) * unit_bytes(padded_dim_));
}

void PackedOperands::gather(std::int64_t kv_head, const std::int32_t* positions, std::byte* unit) const {
  const bfloat16 *keys[kUnitKeys], *values[kUnitKeys];
  for (int i = 0; i < kUnitKeys; ++i) {
    const bool present = positions[i] != kNoKey;
    keys[i] = present ? call_.key.row<const bfloat16>(kv_head, positions[i]) : kZeroRow;
    values[i] = present ? call_.value.row<const bfloat16>(kv_head, positions[i]) : kZeroRow;
  }
  stages_.pack_unit(keys, values, call_.key.dim, padded_dim_, unit);
}

}  // namespace minference::kernels::amx
