#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_operands.h"
#include "sparse/sparse_index.h"

// From the index to units: what one head computes in a row slice, and the walk of its row groups over that.
namespace minference::kernels::amx {

// A block of 32 keys, [first, first + 32), as one row slice sees it. Bit i: key first + i is the slice's.
struct KeyBlock {
  std::int32_t first;
  std::uint32_t keys;
};

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
  const std::vector<KeyBlock>& blocks() const { return blocks_; }  // from the last keys to the first
  const std::vector<GatheredUnit>& gathered() const { return gathered_; }

 private:
  void list_blocks();
  void gather_last_block(const PackedOperands& operands);
  void list_columns(const std::vector<std::int32_t>& all, std::int64_t head, const PackedOperands& operands);
  void gather_again(GatheredUnit& unit, const PackedOperands& operands);

  std::int64_t kv_head_ = 0;
  sparse::RowSliceKeys keys_;
  std::vector<KeyBlock> blocks_;
  std::vector<GatheredUnit> gathered_;
  base::AlignedBuffer<std::byte> own_;  // units packed for this slice
  int num_own_ = 0;
};

// Walks the units of one row group: blocks, then gathered units. Units that no row attends to are left out.
class UnitCursor {
 public:
  UnitCursor(const SliceUnits& slice, const RowGroup& rows, const PackedOperands& operands);

  const SliceUnits& slice() const { return *slice_; }
  bool at_start() const { return at_start_; }
  bool done() const { return block_ == slice_->blocks().size() && gathered_ == slice_->gathered().size(); }

  // Fills in the next unit, and its masks when it is masked.
  void next(Unit& unit, std::uint32_t* masks);

 private:
  void next_block(const KeyBlock& block, Unit& unit, std::uint32_t* masks);
  void next_gathered(const GatheredUnit& gathered, Unit& unit, std::uint32_t* masks);
  std::uint32_t mask_of(std::int64_t key) const;
  bool reached(std::int64_t key) const { return !slice_->rule().causal || key <= last_; }
  void skip();

  const SliceUnits* slice_;
  const PackedOperands* operands_;
  std::int64_t first_, last_;  // positions of the rows
  std::size_t block_ = 0, gathered_ = 0;
  bool at_start_ = true;
};

}  // namespace minference::kernels::amx
