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

// Into the planes of one key.
void pack_key(const bfloat16* row, std::int64_t head_dim, std::int64_t padded_dim, std::int64_t plane_bytes,
              std::byte* to) {
  for (std::int64_t dim = 0; dim < padded_dim; dim += kDimStep, to += plane_bytes) {
    auto* key = reinterpret_cast<bfloat16*>(to);
    const std::int64_t count = std::min<std::int64_t>(head_dim - dim, kDimStep);
    std::copy_n(row + dim, count, key);
    std::fill(key + count, key + kDimStep, bfloat16{0});
  }
}

std::int64_t num_column_units(const sparse::HeadIndex& head) {
  return (static_cast<std::int64_t>(head.columns.size()) + kUnitKeys - 1) / kUnitKeys;
}

}  // namespace

PackedOperands::PackedOperands(const AttentionCall& call, const Stages& stages)
    : call_(call),
      stages_(stages),
      padded_dim_(round_up(call.query.dim, kDimStep)),
      num_blocks_((call.key.rows + kUnitKeys - 1) / kUnitKeys),
      key_plane_bytes_(call.key.rows * kKeyRowBytes),
      key_bytes_(padded_dim_ / kDimStep * key_plane_bytes_),
      head_bytes_(key_bytes_ + num_blocks_ * value_block_bytes(padded_dim_)),
      heads_a_round_(std::clamp<std::int64_t>(kPackedBytesARound / std::max<std::int64_t>(head_bytes_, 1), 1,
                                              call.key.heads)),
      packed_(static_cast<std::size_t>(heads_a_round_ * head_bytes_)) {
  const std::int64_t group = call.query.heads / call.key.heads;
  std::int64_t most_bytes = 0;
  for (std::int64_t kv_head = 0; kv_head < call.key.heads; kv_head = end_of_round(kv_head)) {
    std::int64_t bytes = 0;
    for (std::int64_t head = kv_head * group; head < end_of_round(kv_head) * group; ++head) {
      first_column_unit_.push_back(bytes);
      bytes += num_column_units(call.index->heads[static_cast<std::size_t>(head)]) *
               gathered_unit_bytes(padded_dim_);
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
                 unit * gathered_unit_bytes(padded_dim_));
    });
  }
}

void PackedOperands::pack_block(std::int64_t kv_head, std::int64_t block) {
  std::byte* head = packed_.data() + kv_head % heads_a_round_ * head_bytes_;
  const bfloat16* values[kUnitKeys];
  for (std::int64_t i = 0; i < kUnitKeys; ++i) {
    const std::int64_t position = block * kUnitKeys + i;
    const bool present = position < call_.key.rows;
    values[i] = present ? call_.value.row<const bfloat16>(kv_head, position) : kZeroRow;
    if (!present) continue;
    pack_key(call_.key.row<const bfloat16>(kv_head, position), call_.key.dim, padded_dim_, key_plane_bytes_,
             head + position * kKeyRowBytes);
  }
  stages_.pack_values(values, call_.value.dim, padded_dim_,
                      head + key_bytes_ + block * value_block_bytes(padded_dim_));
}

void PackedOperands::gather(std::int64_t kv_head, const std::int32_t* positions, std::byte* unit) const {
  const bfloat16* values[kUnitKeys];
  for (std::int64_t i = 0; i < kUnitKeys; ++i) {
    const bool present = positions[i] != kNoKey;
    values[i] = present ? call_.value.row<const bfloat16>(kv_head, positions[i]) : kZeroRow;
    pack_key(present ? call_.key.row<const bfloat16>(kv_head, positions[i]) : kZeroRow, call_.key.dim,
             padded_dim_, kUnitKeys * kKeyRowBytes, unit + i * kKeyRowBytes);
  }
  stages_.pack_values(values, call_.value.dim, padded_dim_, unit + value_block_bytes(padded_dim_));
}

}  // namespace minference::kernels::amx
