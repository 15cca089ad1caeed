#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_operands.h"
#include "sparse/sparse_index.h"

// From the index to units: what one head computes in a row slice, and the walk of its row groups over that.
namespace minference::kernels::amx {

// 32 keys that are packed by themselves, as one row slice sees them: keys that are not the slice's are kNoKey.
struct GatheredUnit {
  const std::byte* packed;
  std::int32_t first, last;  // of the slice's keys
  bool complete;             // all 32 are the slice's
  std::int32_t positions[kUnitKeys];
};

// What one head computes in the current row slice.
class SliceUnits {
 public:
  // Reserves what any slice can need; list() allocates nothing.
  SliceUnits(const sparse::SparseIndex& index, std::int64_t padded_dim);

  void list(const sparse::SparseIndex& index, std::int64_t head, std::int64_t kv_head,
            const sparse::RowSlice& slice, const PackedOperands& operands);

  std::int64_t kv_head() const { return kv_head_; }
  const sparse::PairRule& rule() const { return keys_.rule; }
  const std::vector<sparse::KeyTile>& tiles() const { return keys_.tiles; }  // of 32 keys at least
  const std::vector<GatheredUnit>& gathered() const { return gathered_; }

 private:
  void list_columns(const std::vector<std::int32_t>& all, std::int64_t head, const PackedOperands& operands);
  void gather_short_tiles(const PackedOperands& operands);
  void gather_again(GatheredUnit& unit, const PackedOperands& operands);

  std::int64_t kv_head_ = 0;
  sparse::RowSliceKeys keys_;
  std::vector<GatheredUnit> gathered_;
  base::AlignedBuffer<std::byte> own_;  // units packed for this slice
  int num_own_ = 0;
};

// Values of units that start inside a block, copied together. Both row groups of a head use a copy, one soon
// after the other; the oldest makes room, long after the pipeline has let go of it.
class AlignedValues {
 public:
  // Units that a row group takes in one turn.
  static constexpr int kTurnUnits = 32;

  explicit AlignedValues(std::int64_t padded_dim);

  void forget();

  // The values from `position` on.
  const std::byte* find_or_copy(const Stages& stages, const PackedOperands& operands, std::int64_t kv_head,
                                std::int64_t position);

 private:
  static constexpr int kCapacity = 2 * kTurnUnits;
  static_assert(kCapacity > kTurnUnits + 4 * kChunkUnits);

  struct Owner {
    std::int64_t kv_head, position;
    bool operator==(const Owner&) const = default;
  };

  std::byte* memory_of(int i) { return memory_.data() + i * value_block_bytes(padded_dim_); }

  std::int64_t padded_dim_;
  base::AlignedBuffer<std::byte> memory_;
  Owner owners_[kCapacity];
  int expected_ = 0;
  int oldest_ = 0;
};

// What a cursor needs besides its head.
struct UnitSource {
  const Stages* stages;
  const PackedOperands* operands;
  AlignedValues* aligned;
};

// Walks the units of one row group: tiles in their order, then gathered units. Units that no row attends to are
// left out.
class UnitCursor {
 public:
  UnitCursor(const SliceUnits& head, const RowGroup& rows, const UnitSource& source);

  bool at_start() const { return at_start_; }
  bool done() const { return tile_ == head_->tiles().size() && gathered_ == head_->gathered().size(); }

  // Fills in the next unit, and its masks when it is masked.
  void next(Unit& unit, std::uint32_t* masks);

 private:
  void next_of_tile(const sparse::KeyTile& tile, Unit& unit, std::uint32_t* masks);
  void next_gathered(const GatheredUnit& gathered, Unit& unit, std::uint32_t* masks);
  std::uint32_t mask_of(std::int64_t key) const;
  bool reached(std::int64_t key) const { return !head_->rule().causal || key <= last_; }
  void skip();

  const SliceUnits* head_;
  UnitSource source_;
  std::int64_t first_, last_;  // positions of the rows
  std::size_t tile_ = 0;
  std::int32_t offset_ = 0;
  std::size_t gathered_ = 0;
  bool at_start_ = true;
};

}  // namespace minference::kernels::amx
