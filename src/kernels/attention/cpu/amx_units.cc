#include "kernels/attention/cpu/amx_units.h"

#include <algorithm>
#include <bit>

namespace minference::kernels::amx {
namespace {

// The last block of keys and the last unit of columns.
constexpr int kMostOwnUnits = 2;

// Bits [begin, end) of 32.
constexpr std::uint32_t bits(std::int64_t begin, std::int64_t end) {
  return static_cast<std::uint32_t>((std::uint64_t{1} << end) - (std::uint64_t{1} << begin));
}

}  // namespace

SliceUnits::SliceUnits(const sparse::SparseIndex& index, std::int64_t padded_dim)
    : own_(static_cast<std::size_t>(kMostOwnUnits * unit_bytes(padded_dim))) {
  sparse::reserve_keys(index, keys_);
  blocks_.reserve(static_cast<std::size_t>(index.kv_len / kUnitKeys + 1));
  gathered_.reserve(keys_.columns.capacity() / kUnitKeys + kMostOwnUnits);
}

void SliceUnits::list(const sparse::SparseIndex& index, std::int64_t head, std::int64_t kv_head,
                      const sparse::RowSlice& slice, const PackedOperands& operands) {
  sparse::keys_of_slice(index, head, slice, keys_);
  kv_head_ = kv_head;
  num_own_ = 0;
  gathered_.clear();
  list_blocks();
  const std::int64_t key_end = sparse::position_of_row(index.q_len, index.kv_len, slice.end);
  if (index.causal && !blocks_.empty() && blocks_.front().first + kUnitKeys > key_end)
    gather_last_block(operands);
  const std::size_t num_before = gathered_.size();
  const std::vector<std::int32_t>& columns = index.heads[static_cast<std::size_t>(head)].columns;
  list_columns(columns, head, operands);
  if (gathered_.size() == num_before || !index.causal) return;
  // The last unit's columns after the slice: their values must not be multiplied.
  GatheredUnit& last = gathered_.back();
  const auto next = std::upper_bound(columns.begin(), columns.end(), last.last);
  const auto end_of_unit = std::min<std::ptrdiff_t>(round_up(next - columns.begin(), kUnitKeys),
                                                    static_cast<std::ptrdiff_t>(columns.size()));
  if (columns[static_cast<std::size_t>(end_of_unit - 1)] >= key_end) gather_again(last, operands);
}

// Tiles start at any key. Where they meet in a block, it is one unit.
void SliceUnits::list_blocks() {
  blocks_.clear();
  for (const sparse::KeyTile& tile : keys_.tiles) {
    const std::int64_t end = tile.begin + tile.count;
    for (std::int64_t first = (end - 1) / kUnitKeys * kUnitKeys; first + kUnitKeys > tile.begin;
         first -= kUnitKeys) {
      const std::uint32_t keys =
          bits(std::max<std::int64_t>(tile.begin - first, 0), std::min<std::int64_t>(end - first, kUnitKeys));
      if (!blocks_.empty() && blocks_.back().first == first) {
        blocks_.back().keys |= keys;
      } else {
        blocks_.push_back({static_cast<std::int32_t>(first), keys});
      }
    }
  }
}

// It reaches beyond the slice, to keys whose values must not be multiplied: an infinite one survives a
// probability of 0.
void SliceUnits::gather_last_block(const PackedOperands& operands) {
  const KeyBlock block = blocks_.front();
  blocks_.erase(blocks_.begin());
  GatheredUnit& unit = gathered_.emplace_back();
  unit.first = block.first + std::countr_zero(block.keys);
  unit.last = block.first + kUnitKeys - 1 - std::countl_zero(block.keys);
  unit.complete = false;
  for (int i = 0; i < kUnitKeys; ++i) unit.positions[i] = block.keys >> i & 1 ? block.first + i : kNoKey;
  gather_again(unit, operands);
}

// The columns of `all`, in their packed units, that are in keys_, a part of them.
void SliceUnits::list_columns(const std::vector<std::int32_t>& all, std::int64_t head,
                              const PackedOperands& operands) {
  auto next = keys_.columns.begin();
  const auto end = keys_.columns.end();
  for (std::size_t begin = 0; begin < all.size() && next != end; begin += kUnitKeys) {
    const std::size_t count = std::min<std::size_t>(kUnitKeys, all.size() - begin);
    if (*next > all[begin + count - 1]) continue;
    GatheredUnit& unit = gathered_.emplace_back();
    unit.packed = operands.columns(head, static_cast<std::int64_t>(begin / kUnitKeys));
    unit.first = *next;
    unit.complete = count == kUnitKeys && end - next >= kUnitKeys && *next == all[begin] &&
                    next[kUnitKeys - 1] == all[begin + kUnitKeys - 1];
    if (unit.complete) {
      std::copy_n(next, kUnitKeys, unit.positions);
      next += kUnitKeys;
    } else {
      std::fill(std::begin(unit.positions), std::end(unit.positions), kNoKey);
      for (std::size_t i = 0; i < count && next != end; ++i) {
        if (all[begin + i] == *next) unit.positions[i] = *next++;
      }
    }
    unit.last = *(next - 1);
  }
}

void SliceUnits::gather_again(GatheredUnit& unit, const PackedOperands& operands) {
  std::byte* packed = own_.data() + num_own_++ * unit_bytes(operands.padded_dim());
  operands.gather(kv_head_, unit.positions, packed);
  unit.packed = packed;
}

UnitCursor::UnitCursor(const SliceUnits& slice, const RowGroup& rows, const PackedOperands& operands)
    : slice_(&slice),
      operands_(&operands),
      first_(rows.first_position),
      last_(rows.first_position + rows.num_rows - 1) {
  skip();
}

void UnitCursor::next(Unit& unit, std::uint32_t* masks) {
  at_start_ = false;
  if (block_ < slice_->blocks().size()) {
    next_block(slice_->blocks()[block_++], unit, masks);
  } else {
    next_gathered(slice_->gathered()[gathered_++], unit, masks);
  }
  skip();
}

void UnitCursor::next_block(const KeyBlock& block, Unit& unit, std::uint32_t* masks) {
  unit.packed = operands_->block(slice_->kv_head(), block.first / kUnitKeys);
  const bool every_row = slice_->rule().allows_all(first_, last_, block.first, block.first + kUnitKeys - 1);
  unit.masked = !every_row || block.keys != ~std::uint32_t{0};
  if (!unit.masked) return;
  for (int i = 0; i < kUnitKeys; ++i) masks[i] = 0 - (block.keys >> i & 1);
  if (every_row) return;
  for (int i = 0; i < kUnitKeys; ++i) masks[i] &= mask_of(block.first + i);
}

void UnitCursor::next_gathered(const GatheredUnit& gathered, Unit& unit, std::uint32_t* masks) {
  unit.packed = gathered.packed;
  unit.masked =
      !gathered.complete || !slice_->rule().allows_all(first_, last_, gathered.first, gathered.last);
  if (!unit.masked) return;
  for (int i = 0; i < kUnitKeys; ++i) {
    masks[i] = gathered.positions[i] == kNoKey ? 0 : mask_of(gathered.positions[i]);
  }
}

// The rows that attend to a key of the unit.
std::uint32_t UnitCursor::mask_of(std::int64_t key) const {
  const sparse::PositionRange rows = slice_->rule().queries_of(key, first_, last_);
  if (rows.last < rows.first) return 0;
  const auto count = static_cast<int>(rows.last - rows.first + 1);
  return ~std::uint32_t{0} >> (kGroupRows - count) << (rows.first - first_);
}

void UnitCursor::skip() {
  const auto& blocks = slice_->blocks();
  while (block_ < blocks.size() && !reached(blocks[block_].first)) ++block_;
  if (block_ < blocks.size()) return;
  const auto& gathered = slice_->gathered();
  while (gathered_ < gathered.size() && !reached(gathered[gathered_].first)) ++gathered_;
}

}  // namespace minference::kernels::amx
