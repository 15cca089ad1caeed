#include "kernels/attention/cpu/amx_units.h"

#include <algorithm>

namespace minference::kernels::amx {
namespace {

// Two runs of tiles with one clipped tile each, and the last unit of columns.
constexpr int kMostOwnUnits = 3;

bool is_short(const sparse::KeyTile& tile) {
  return tile.count < kUnitKeys;
}

}  // namespace

SliceUnits::SliceUnits(const sparse::SparseIndex& index, std::int64_t padded_dim)
    : own_(static_cast<std::size_t>(kMostOwnUnits * gathered_unit_bytes(padded_dim))) {
  sparse::reserve_keys(index, keys_);
  gathered_.reserve(keys_.columns.capacity() / kUnitKeys + kMostOwnUnits);
}

void SliceUnits::list(const sparse::SparseIndex& index, std::int64_t head, std::int64_t kv_head,
                      const sparse::RowSlice& slice, const PackedOperands& operands) {
  sparse::keys_of_slice(index, head, slice, keys_);
  kv_head_ = kv_head;
  num_own_ = 0;
  gathered_.clear();
  gather_short_tiles(operands);
  const std::size_t num_short = gathered_.size();
  const std::vector<std::int32_t>& columns = index.heads[static_cast<std::size_t>(head)].columns;
  list_columns(columns, head, operands);
  if (gathered_.size() == num_short || !index.causal) return;
  // The last unit's columns after the slice: their values must not be multiplied.
  GatheredUnit& last = gathered_.back();
  const std::int64_t key_end = sparse::position_of_row(index.q_len, index.kv_len, slice.end);
  const auto next = std::upper_bound(columns.begin(), columns.end(), last.last);
  const auto end_of_unit = std::min<std::ptrdiff_t>(round_up(next - columns.begin(), kUnitKeys),
                                                    static_cast<std::ptrdiff_t>(columns.size()));
  if (columns[static_cast<std::size_t>(end_of_unit - 1)] >= key_end) gather_again(last, operands);
}

// A unit of such a tile would reach beyond it, to keys whose values must not be multiplied: an infinite one
// survives a probability of 0.
void SliceUnits::gather_short_tiles(const PackedOperands& operands) {
  for (const sparse::KeyTile& tile : keys_.tiles) {
    if (!is_short(tile)) continue;
    GatheredUnit& unit = gathered_.emplace_back();
    unit.first = static_cast<std::int32_t>(tile.begin);
    unit.last = unit.first + tile.count - 1;
    unit.complete = false;
    for (int i = 0; i < kUnitKeys; ++i) unit.positions[i] = i < tile.count ? unit.first + i : kNoKey;
    gather_again(unit, operands);
  }
  std::erase_if(keys_.tiles, is_short);
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
  std::byte* packed = own_.data() + num_own_++ * gathered_unit_bytes(operands.padded_dim());
  operands.gather(kv_head_, unit.positions, packed);
  unit.packed = packed;
}

AlignedValues::AlignedValues(std::int64_t padded_dim)
    : padded_dim_(padded_dim), memory_(static_cast<std::size_t>(kCapacity * value_block_bytes(padded_dim))) {}

void AlignedValues::forget() {
  std::fill(std::begin(owners_), std::end(owners_), Owner{-1, -1});
}

const std::byte* AlignedValues::find_or_copy(const Stages& stages, const PackedOperands& operands,
                                             std::int64_t kv_head, std::int64_t position) {
  const Owner owner = {kv_head, position};
  // The second row group asks in the order in which the first one did.
  for (int i = 0; i < kCapacity; ++i) {
    expected_ = (expected_ + 1) % kCapacity;
    if (owners_[expected_] == owner) return memory_of(expected_);
  }
  oldest_ = (oldest_ + 1) % kCapacity;
  owners_[oldest_] = owner;
  stages.align_values(operands.value_block(kv_head, position), static_cast<int>(position % kUnitKeys),
                      padded_dim_, memory_of(oldest_));
  return memory_of(oldest_);
}

UnitCursor::UnitCursor(const SliceUnits& head, const RowGroup& rows, const UnitSource& source)
    : head_(&head),
      source_(source),
      first_(rows.first_position),
      last_(rows.first_position + rows.num_rows - 1) {
  skip();
}

void UnitCursor::next(Unit& unit, std::uint32_t* masks) {
  at_start_ = false;
  if (tile_ < head_->tiles().size()) {
    next_of_tile(head_->tiles()[tile_], unit, masks);
    offset_ += kUnitKeys;
  } else {
    next_gathered(head_->gathered()[gathered_++], unit, masks);
  }
  skip();
}

void UnitCursor::next_of_tile(const sparse::KeyTile& tile, Unit& unit, std::uint32_t* masks) {
  // The last unit of a clipped tile ends where the tile does; keys of the unit before are masked.
  const std::int64_t begin = tile.begin + std::min(offset_, tile.count - kUnitKeys);
  const std::int64_t done = tile.begin + offset_ - begin;
  const std::int64_t kv_head = head_->kv_head();
  unit.key = source_.operands->keys(kv_head, begin);
  unit.key_plane_bytes = source_.operands->key_plane_bytes();
  unit.value = begin % kUnitKeys == 0
                   ? source_.operands->value_block(kv_head, begin)
                   : source_.aligned->find_or_copy(*source_.stages, *source_.operands, kv_head, begin);
  unit.masked =
      done > 0 || (tile.masked && !head_->rule().allows_all(first_, last_, begin, begin + kUnitKeys - 1));
  if (!unit.masked) return;
  for (std::int64_t i = 0; i < kUnitKeys; ++i) masks[i] = i < done ? 0 : mask_of(begin + i);
}

void UnitCursor::next_gathered(const GatheredUnit& gathered, Unit& unit, std::uint32_t* masks) {
  unit.key = gathered.packed;
  unit.key_plane_bytes = kUnitKeys * kKeyRowBytes;
  unit.value = unit.key + value_block_bytes(source_.operands->padded_dim());
  unit.masked = !gathered.complete || !head_->rule().allows_all(first_, last_, gathered.first, gathered.last);
  if (!unit.masked) return;
  for (int i = 0; i < kUnitKeys; ++i) {
    masks[i] = gathered.positions[i] == kNoKey ? 0 : mask_of(gathered.positions[i]);
  }
}

// The rows that attend to a key of the unit.
std::uint32_t UnitCursor::mask_of(std::int64_t key) const {
  const sparse::PositionRange rows = head_->rule().queries_of(key, first_, last_);
  if (rows.last < rows.first) return 0;
  const auto count = static_cast<int>(rows.last - rows.first + 1);
  return ~std::uint32_t{0} >> (kGroupRows - count) << (rows.first - first_);
}

void UnitCursor::skip() {
  const auto& tiles = head_->tiles();
  while (tile_ < tiles.size() && (offset_ >= tiles[tile_].count || !reached(tiles[tile_].begin + offset_))) {
    ++tile_;
    offset_ = 0;
  }
  if (tile_ < tiles.size()) return;
  const auto& gathered = head_->gathered();
  while (gathered_ < gathered.size() && !reached(gathered[gathered_].first)) ++gathered_;
}

}  // namespace minference::kernels::amx
