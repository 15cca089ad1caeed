#include "kernels/attention/cpu/amx_attention.h"

#include <algorithm>
#include <array>
#include <limits>
#include <new>
#include <vector>

#include "base/aligned_buffer.h"

// The AMX kernel's plan, memory and walk over the index; what runs on tiles is in amx_pipeline.h.
namespace minference::kernels::amx {
namespace {

using base::bfloat16;

// Query heads of one KV head that a worker takes through a row block together, so that the packed keys and
// values they share come from L3 once.
constexpr std::int64_t kHeadsTogether = 8;

// They take turns after this many units each (512 KiB of packed keys and values at head_dim 128, a quarter of
// L2).
constexpr int kSegmentUnits = 32;

// KV heads are packed and attended in rounds, as many at a time as fit in this much memory, and at least one. Little enough
// for glibc's malloc to keep the memory from call to call (up to 32 MiB): page faults cost as much as packing.
constexpr std::int64_t kPackedBytesARound = std::int64_t{24} << 20;

alignas(64) constexpr bfloat16 kZeroRow[kMaxHeadDim] = {};

constexpr std::int64_t round_up(std::int64_t x, std::int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// Packing is done in pieces of this many keys.
constexpr std::int64_t kPieceKeys = 256;

// Where a KV head's packed keys and values lie.
struct PackedLayout {
  PackedLayout(std::int64_t kv_len, std::int64_t dim)
      : padded_dim(dim),
        num_pieces((kv_len + kPieceKeys - 1) / kPieceKeys),
        // A unit that starts at the last key reaches two blocks further, and 16 pairs.
        key_bytes((num_pieces * (kPieceKeys / kBlockKeys) + 2) * key_block_bytes(dim)),
        value_plane_bytes((num_pieces * kPieceKeys / 2 + kUnitKeys / 2) * kValueRowBytes),
        parity_bytes(dim / kDimStep * value_plane_bytes) {}

  std::int64_t bytes() const { return key_bytes + 2 * parity_bytes; }

  // The block that holds a key, and its offset there.
  const std::byte* key_block(const std::byte* head, std::int64_t position) const {
    return head + position / kBlockKeys * key_block_bytes(padded_dim);
  }
  const std::byte* value(const std::byte* head, std::int64_t position) const {
    return head + key_bytes + position % 2 * parity_bytes + position / 2 * kValueRowBytes;
  }

  std::int64_t padded_dim;
  std::int64_t num_pieces;
  std::int64_t key_bytes;
  std::int64_t value_plane_bytes;
  std::int64_t parity_bytes;
};

// A query head's gathered columns, packed unit by unit in the order of the index: keys, then values.
struct PackedColumns {
  std::int64_t num_units;
  std::byte* data;
};

constexpr std::int64_t column_unit_bytes(std::int64_t padded_dim) {
  return 2 * key_block_bytes(padded_dim) + padded_dim / kDimStep * kUnitKeys / 2 * kValueRowBytes;
}

// A unit of gathered columns as one row slice sees it: columns that are not the slice's have kNoKey.
struct ColumnUnit {
  std::int64_t unit;
  const std::byte* packed;
  std::int32_t first, last;  // of the slice's columns
  bool complete;             // all 32 are the slice's
  std::int32_t positions[kUnitKeys];
};

// What one head computes in the worker's current row slice.
struct HeadKeys {
  std::int64_t head;
  sparse::RowSliceKeys keys;
  std::vector<ColumnUnit> columns;
  const std::byte* packed;  // of its KV head
  const std::byte* packed_columns;
  base::AlignedBuffer<std::byte>
      last_columns;  // the last unit, packed for this slice where it reaches beyond
};

// Lists the columns of `all`, in their packed units, that are in `keys`, a part of them.
void list_column_units(const std::vector<std::int32_t>& all, std::int64_t padded_dim, HeadKeys& head) {
  head.columns.clear();
  auto next = head.keys.columns.begin();
  const auto end = head.keys.columns.end();
  for (std::size_t begin = 0; begin < all.size() && next != end; begin += kUnitKeys) {
    const std::size_t count = std::min<std::size_t>(kUnitKeys, all.size() - begin);
    if (*next > all[begin + count - 1]) continue;
    ColumnUnit& unit = head.columns.emplace_back();
    unit.unit = static_cast<std::int64_t>(begin / kUnitKeys);
    unit.packed = head.packed_columns + unit.unit * column_unit_bytes(padded_dim);
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

// Units of keys that start inside a block, copied together. Both row groups of a head use a copy, one soon after the other;
// the oldest makes room, long after the pipeline has let go of it.
class AlignedUnits {
 public:
  static constexpr int kCapacity = 2 * kSegmentUnits;
  static_assert(kCapacity > kSegmentUnits + 4 * kChunkUnits);

  explicit AlignedUnits(std::int64_t padded_dim)
      : padded_dim_(padded_dim),
        memory_(static_cast<std::size_t>(kCapacity * 2 * key_block_bytes(padded_dim))) {}

  void forget() { std::fill(std::begin(owners_), std::end(owners_), Owner{-1, -1}); }

  // The keys of `head` from `begin` on; `blocks` starts with the block that holds `begin`.
  const std::byte* find_or_copy(const Stages& stages, std::int64_t head, std::int64_t begin,
                                const std::byte* blocks) {
    const Owner owner = {head, begin};
    // The second row group asks in the order in which the first one did.
    for (int i = 0; i < kCapacity; ++i) {
      expected_ = (expected_ + 1) % kCapacity;
      if (owners_[expected_] == owner) return memory_of(expected_);
    }
    oldest_ = (oldest_ + 1) % kCapacity;
    owners_[oldest_] = owner;
    stages.align_keys(blocks, static_cast<int>(begin % kBlockKeys), padded_dim_, memory_of(oldest_));
    return memory_of(oldest_);
  }

 private:
  struct Owner {
    std::int64_t head, begin;
    bool operator==(const Owner&) const = default;
  };

  std::byte* memory_of(int i) { return memory_.data() + i * 2 * key_block_bytes(padded_dim_); }

  std::int64_t padded_dim_;
  base::AlignedBuffer<std::byte> memory_;
  Owner owners_[kCapacity];
  int expected_ = 0;
  int oldest_ = 0;
};

// What a cursor needs besides its head.
struct UnitSource {
  const Stages* stages;
  const PackedLayout* layout;
  AlignedUnits* aligned;
};

// Walks the units of one row group: tiles in their order, then columns. Units that no row attends to are left
// out.
class UnitCursor {
 public:
  UnitCursor(const HeadKeys& head, const RowGroup& rows, const UnitSource& source)
      : head_(&head),
        source_(source),
        rule_(rows.rule),
        first_(rows.first_position),
        last_(rows.first_position + rows.num_rows - 1) {
    skip();
  }

  bool at_start() const { return at_start_; }
  bool done() const { return tile_ == head_->keys.tiles.size() && column_ == head_->columns.size(); }

  // Fills in the next unit, and its positions when it is masked.
  void next(Unit& unit, std::int32_t* positions) {
    at_start_ = false;
    if (tile_ < head_->keys.tiles.size()) {
      next_of_tile(head_->keys.tiles[tile_], unit, positions);
      offset_ += kUnitKeys;
    } else {
      next_of_columns(head_->columns[column_++], unit, positions);
    }
    skip();
  }

 private:
  void next_of_tile(const sparse::KeyTile& tile, Unit& unit, std::int32_t* positions) {
    const PackedLayout& layout = *source_.layout;
    const std::int64_t begin = tile.begin + offset_;
    const int count = std::min(tile.count - offset_, kUnitKeys);
    unit.key = layout.key_block(head_->packed, begin);
    if (begin % kBlockKeys != 0) {
      unit.key = source_.aligned->find_or_copy(*source_.stages, head_->head, begin, unit.key);
    }
    unit.value = layout.value(head_->packed, begin);
    unit.value_plane_bytes = layout.value_plane_bytes;
    unit.masked =
        count < kUnitKeys || (tile.masked && !rule_.allows_all(first_, last_, begin, begin + count - 1));
    if (unit.masked) {
      for (int i = 0; i < kUnitKeys; ++i)
        positions[i] = i < count ? static_cast<std::int32_t>(begin + i) : kNoKey;
    }
  }

  void next_of_columns(const ColumnUnit& columns, Unit& unit, std::int32_t* positions) {
    const std::int64_t padded_dim = source_.layout->padded_dim;
    unit.key = columns.packed;
    unit.value = unit.key + 2 * key_block_bytes(padded_dim);
    unit.value_plane_bytes = kUnitKeys / 2 * kValueRowBytes;
    unit.masked = !columns.complete || (head_->keys.columns_masked &&
                                        !rule_.allows_all(first_, last_, columns.first, columns.last));
    if (unit.masked) std::copy_n(columns.positions, kUnitKeys, positions);
  }

  bool reached(std::int64_t key) const { return !rule_.causal || key <= last_; }

  void skip() {
    const auto& tiles = head_->keys.tiles;
    while (tile_ < tiles.size() &&
           (offset_ >= tiles[tile_].count || !reached(tiles[tile_].begin + offset_))) {
      ++tile_;
      offset_ = 0;
    }
    if (tile_ < tiles.size()) return;
    while (column_ < head_->columns.size() && !reached(head_->columns[column_].first)) ++column_;
  }

  const HeadKeys* head_;
  UnitSource source_;
  sparse::PairRule rule_;
  std::int64_t first_, last_;
  std::size_t tile_ = 0;
  std::int32_t offset_ = 0;
  std::size_t column_ = 0;
  bool at_start_ = true;
};

void push_chunk(const Stages& stages, Pipeline& pipeline, RowGroup& rows, UnitCursor& units) {
  Chunk& chunk = pipeline.chunks[pipeline.next];
  chunk.rows = &rows;
  chunk.first = units.at_start();
  for (chunk.num_units = 0; chunk.num_units < kChunkUnits && !units.done(); ++chunk.num_units) {
    units.next(chunk.units[chunk.num_units], chunk.positions[chunk.num_units]);
  }
  chunk.last = units.done();
  stages.push(pipeline);
}

void drain(const Stages& stages, Pipeline& pipeline) {
  for (int i = 0; i < 2; ++i) {
    pipeline.chunks[pipeline.next].num_units = 0;
    stages.push(pipeline);
  }
}

// Heads of one KV head whose rows are cut alike, and a slice of those rows.
struct WorkItem {
  std::int64_t first_head, num_heads;
  sparse::RowSlice slice;
};

struct Worker {
  explicit Worker(std::int64_t padded_dim) : aligned(padded_dim) {}

  base::AlignedBuffer<Pipeline> pipeline;
  base::AlignedBuffer<RowGroup> groups;
  base::AlignedBuffer<std::byte> memory;  // of the row groups
  std::array<HeadKeys, kHeadsTogether> heads;
  AlignedUnits aligned;
  std::vector<UnitCursor> cursors;  // a row group
};

class Attention {
 public:
  Attention(const AttentionCall& call, base::Executor& executor, const Stages& stages)
      : call_(call),
        index_(*call.index),
        executor_(executor),
        stages_(stages),
        padded_dim_(round_up(call.query.dim, kDimStep)),
        layout_(call.key.rows, padded_dim_),
        heads_a_round_(std::clamp<std::int64_t>(
            kPackedBytesARound / std::max<std::int64_t>(layout_.bytes(), 1), 1, call.key.heads)),
        packed_(static_cast<std::size_t>(heads_a_round_ * layout_.bytes())) {
    std::size_t most_columns = 0;
    columns_.reserve(index_.heads.size());
    for (const sparse::HeadIndex& head : index_.heads) {
      columns_.push_back(
          {static_cast<std::int64_t>((head.columns.size() + kUnitKeys - 1) / kUnitKeys), nullptr});
      most_columns = std::max(most_columns, head.columns.size());
    }
    std::int64_t most_column_bytes = 0;
    for (std::int64_t kv_head = 0; kv_head < call.key.heads; kv_head += heads_a_round_) {
      std::int64_t units = 0;
      for (std::int64_t head = kv_head * group(); head < end_of_round(kv_head) * group(); ++head) {
        units += columns_[static_cast<std::size_t>(head)].num_units;
      }
      most_column_bytes = std::max(most_column_bytes, units * column_unit_bytes(padded_dim_));
    }
    packed_columns_ = base::AlignedBuffer<std::byte>(static_cast<std::size_t>(most_column_bytes));

    workers_.reserve(static_cast<std::size_t>(executor.num_workers()));
    for (int i = 0; i < executor.num_workers(); ++i) {
      Worker& worker = workers_.emplace_back(padded_dim_);
      worker.pipeline = base::AlignedBuffer<Pipeline>(1);
      worker.groups = base::AlignedBuffer<RowGroup>(kHeadsTogether * 2);
      worker.memory =
          base::AlignedBuffer<std::byte>(static_cast<std::size_t>(kHeadsTogether * 2 * group_bytes()));
      worker.cursors.reserve(kHeadsTogether * 2);
      for (HeadKeys& head : worker.heads) {
        sparse::reserve_keys(index_, head.keys);
        head.columns.reserve(most_columns / kUnitKeys + 1);
        if (most_columns > 0)
          head.last_columns =
              base::AlignedBuffer<std::byte>(static_cast<std::size_t>(column_unit_bytes(padded_dim_)));
      }
    }
    list_work();
  }

  void run() {
    for (std::int64_t kv_head = 0; kv_head < call_.key.heads; kv_head = end_of_round(kv_head)) {
      pack(kv_head, end_of_round(kv_head));
      const auto& items = items_[static_cast<std::size_t>(kv_head / heads_a_round_)];
      executor_.parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i, int worker) {
        attend(items[static_cast<std::size_t>(i)], workers_[static_cast<std::size_t>(worker)]);
      });
    }
  }

 private:
  std::int64_t group() const { return call_.query.heads / call_.key.heads; }
  std::int64_t end_of_round(std::int64_t kv_head) const {
    return std::min(kv_head + heads_a_round_, call_.key.heads);
  }
  // Of a row group's queries, sums and references.
  std::int64_t group_bytes() const { return kGroupRows * (padded_dim_ * 2 + padded_dim_ * 4 + 2 * 64); }
  std::byte* packed(std::int64_t kv_head) {
    return packed_.data() + kv_head % heads_a_round_ * layout_.bytes();
  }

  // Each round's work, longest first: with a causal index the last rows reach most keys.
  void list_work() {
    for (std::int64_t kv_head = 0; kv_head < call_.key.heads; kv_head += heads_a_round_) {
      std::vector<WorkItem>& items = items_.emplace_back();
      for (std::int64_t head = kv_head * group(); head < end_of_round(kv_head) * group();) {
        const std::int64_t end_of_group = (head / group() + 1) * group();
        const std::int64_t last_dense_rows = index_.heads[static_cast<std::size_t>(head)].last_dense_rows;
        std::int64_t end = head + 1;
        while (end < end_of_group && end - head < kHeadsTogether &&
               index_.heads[static_cast<std::size_t>(end)].last_dense_rows == last_dense_rows) {
          ++end;
        }
        for (const sparse::RowSlice& slice : sparse::row_slices(index_.q_len, last_dense_rows)) {
          items.push_back({head, end - head, slice});
        }
        head = end;
      }
      std::stable_sort(items.begin(), items.end(),
                       [](const WorkItem& a, const WorkItem& b) { return a.slice.begin > b.slice.begin; });
    }
  }

  void pack(std::int64_t first_kv_head, std::int64_t end_kv_head) {
    executor_.parallel_for((end_kv_head - first_kv_head) * layout_.num_pieces, [&](std::int64_t i, int) {
      pack_piece(first_kv_head + i / layout_.num_pieces, i % layout_.num_pieces);
    });
    std::byte* data = packed_columns_.data();
    for (std::int64_t head = first_kv_head * group(); head < end_kv_head * group(); ++head) {
      PackedColumns& columns = columns_[static_cast<std::size_t>(head)];
      columns.data = data;
      executor_.parallel_for(columns.num_units, [&](std::int64_t unit, int) {
        pack_column_unit(head, unit, call_.key.rows, data + unit * column_unit_bytes(padded_dim_));
      });
      data += columns.num_units * column_unit_bytes(padded_dim_);
    }
  }

  const bfloat16* row_or_zeros(const base::InputHeads& tensor, std::int64_t head, std::int64_t row) const {
    return row < tensor.rows ? tensor.row<const bfloat16>(head, row) : kZeroRow;
  }

  // 256 keys and values. The last piece also has what units reach beyond the keys.
  void pack_piece(std::int64_t kv_head, std::int64_t piece) {
    std::byte* head = packed(kv_head);
    const std::int64_t begin = piece * kPieceKeys;
    const std::int64_t count = kPieceKeys + (piece == layout_.num_pieces - 1 ? kUnitKeys : 0);
    const bfloat16* rows[kPieceKeys + kUnitKeys + 1];
    for (std::int64_t i = 0; i < count; ++i) rows[i] = row_or_zeros(call_.key, kv_head, begin + i);
    for (std::int64_t i = 0; i < count; i += kBlockKeys) {
      stages_.pack_keys(rows + i, call_.key.dim, padded_dim_,
                        head + (begin + i) / kBlockKeys * key_block_bytes(padded_dim_));
    }
    for (std::int64_t i = 0; i <= count; ++i) rows[i] = row_or_zeros(call_.value, kv_head, begin + i);
    for (std::int64_t parity = 0; parity < 2; ++parity) {
      stages_.pack_values(
          rows + parity, count / 2, call_.value.dim, padded_dim_, layout_.value_plane_bytes,
          head + layout_.key_bytes + parity * layout_.parity_bytes + begin / 2 * kValueRowBytes);
    }
  }

  // Columns at or after key `end` become zeros.
  void pack_column_unit(std::int64_t head, std::int64_t unit, std::int64_t end, std::byte* packed) {
    const std::vector<std::int32_t>& columns = index_.heads[static_cast<std::size_t>(head)].columns;
    const bfloat16* keys[kUnitKeys];
    const bfloat16* values[kUnitKeys];
    for (std::int64_t i = 0; i < kUnitKeys; ++i) {
      const auto column = static_cast<std::size_t>(unit * kUnitKeys + i);
      const bool present = column < columns.size() && columns[column] < end;
      const std::int64_t position = present ? columns[column] : call_.key.rows;
      keys[i] = row_or_zeros(call_.key, head / group(), position);
      values[i] = row_or_zeros(call_.value, head / group(), position);
    }
    for (std::int64_t i = 0; i < kUnitKeys; i += kBlockKeys) {
      stages_.pack_keys(keys + i, call_.key.dim, padded_dim_, packed);
      packed += key_block_bytes(padded_dim_);
    }
    stages_.pack_values(values, kUnitKeys / 2, call_.value.dim, padded_dim_, kUnitKeys / 2 * kValueRowBytes,
                        packed);
  }

  void attend(const WorkItem& item, Worker& worker) {
    Pipeline& pipeline = worker.pipeline[0];
    pipeline.head_dim = call_.query.dim;
    pipeline.padded_dim = padded_dim_;
    constexpr float kLog2E = 1.44269504f;
    pipeline.scale = call_.softmax_scale * kLog2E;

    worker.aligned.forget();
    worker.cursors.clear();
    for (std::int64_t i = 0; i < item.num_heads; ++i) {
      HeadKeys& keys = worker.heads[static_cast<std::size_t>(i)];
      list_keys(item.first_head + i, item.slice, keys);
      for (std::int64_t row = item.slice.begin; row < item.slice.end; row += kGroupRows) {
        const std::size_t g = worker.cursors.size();
        RowGroup& rows = worker.groups[g];
        load_rows(item.first_head + i, row, std::min(item.slice.end, row + kGroupRows), keys.keys.rule,
                  worker.memory.data() + static_cast<std::int64_t>(g) * group_bytes(), rows);
        worker.cursors.emplace_back(keys, rows, UnitSource{&stages_, &layout_, &worker.aligned});
        if (worker.cursors.back().done()) clear_rows(rows);
      }
    }

    stages_.begin(pipeline);
    stream(worker);
    const std::size_t groups_a_head = worker.cursors.size() / static_cast<std::size_t>(item.num_heads);
    for (std::size_t g = 0; g < worker.cursors.size(); ++g) {
      if (worker.groups[g].out_of_range) repeat(worker, worker.heads[g / groups_a_head], worker.groups[g]);
    }
    stages_.end(pipeline);
  }

  void list_keys(std::int64_t head, const sparse::RowSlice& slice, HeadKeys& keys) {
    sparse::keys_of_slice(index_, head, slice, keys.keys);
    keys.head = head;
    keys.packed = packed(head / group());
    keys.packed_columns = columns_[static_cast<std::size_t>(head)].data;
    const std::vector<std::int32_t>& columns = index_.heads[static_cast<std::size_t>(head)].columns;
    list_column_units(columns, padded_dim_, keys);
    if (keys.columns.empty() || !index_.causal) return;
    // A value after the slice must not be multiplied, not even by 0, which an infinite one survives.
    ColumnUnit& last = keys.columns.back();
    const auto end_of_unit = static_cast<std::size_t>((last.unit + 1) * kUnitKeys);
    const std::int64_t key_end = sparse::position_of_row(index_.q_len, index_.kv_len, slice.end);
    if (columns[std::min(end_of_unit, columns.size()) - 1] < key_end) return;
    pack_column_unit(head, last.unit, key_end, keys.last_columns.data());
    last.packed = keys.last_columns.data();
  }

  // Query rows [begin, end) of a head.
  void load_rows(std::int64_t head, std::int64_t begin, std::int64_t end, const sparse::PairRule& rule,
                 std::byte* memory, RowGroup& rows) {
    rows.query = reinterpret_cast<bfloat16*>(memory);
    rows.out_sums = reinterpret_cast<float*>(memory + kGroupRows * padded_dim_ * 2);
    rows.exp_sums = rows.out_sums + kGroupRows * padded_dim_;
    rows.reference = rows.exp_sums + kGroupRows * 16;
    rows.has_reference = rows.out_of_range = false;
    rows.rule = rule;
    rows.first_position = sparse::position_of_row(index_.q_len, index_.kv_len, begin);
    rows.kv_len = index_.kv_len;
    rows.num_rows = static_cast<int>(end - begin);
    rows.out = call_.out.row<bfloat16>(head, begin);
    rows.out_stride = call_.out.row_stride;
    rows.lse = call_.lse.data ? &call_.lse.at(head, begin) : nullptr;
    rows.lse_stride = call_.lse.row_stride;
    for (std::int64_t i = 0; i < kGroupRows; ++i) {
      const bfloat16* from = i < rows.num_rows ? call_.query.row<const bfloat16>(head, begin + i) : kZeroRow;
      for (std::int64_t dim = 0; dim < padded_dim_; dim += kDimStep) {
        const std::int64_t count = std::min<std::int64_t>(call_.query.dim - dim, kDimStep);
        bfloat16* to = rows.query + dim * kGroupRows + i * kDimStep;
        std::copy_n(from + dim, count, to);
        std::fill(to + count, to + kDimStep, bfloat16{0});
      }
    }
  }

  void clear_rows(const RowGroup& rows) {
    for (int i = 0; i < rows.num_rows; ++i) {
      std::fill_n(rows.out + i * rows.out_stride, call_.out.dim, bfloat16{0});
      if (rows.lse) rows.lse[i * rows.lse_stride] = -std::numeric_limits<float>::infinity();
    }
  }

  void stream(Worker& worker) {
    Pipeline& pipeline = worker.pipeline[0];
    for (bool more = true; more;) {
      more = false;
      for (std::size_t g = 0; g < worker.cursors.size(); ++g) {
        UnitCursor& units = worker.cursors[g];
        for (int i = 0; i < kSegmentUnits && !units.done(); i += kChunkUnits) {
          push_chunk(stages_, pipeline, worker.groups[g], units);
        }
        more |= !units.done();
      }
    }
    drain(stages_, pipeline);
  }

  // Row groups whose first unit was no measure of the others: the largest score first, then all over again.
  void repeat(Worker& worker, const HeadKeys& keys, RowGroup& rows) {
    Pipeline& pipeline = worker.pipeline[0];
    const UnitSource source = {&stages_, &layout_, &worker.aligned};
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    float* const end_of_reference = rows.reference + kGroupRows * 16;
    std::fill(rows.reference, end_of_reference, kLowest);
    Unit unit;
    alignas(64) std::int32_t positions[kUnitKeys];
    for (UnitCursor units(keys, rows, source); !units.done();) {
      units.next(unit, positions);
      stages_.raise_reference(pipeline, rows, unit, positions);
    }
    std::replace(rows.reference, end_of_reference, kLowest, 0.0f);
    rows.has_reference = true;
    for (UnitCursor units(keys, rows, source); !units.done();) push_chunk(stages_, pipeline, rows, units);
    drain(stages_, pipeline);
  }

  const AttentionCall& call_;
  const sparse::SparseIndex& index_;
  base::Executor& executor_;
  const Stages& stages_;
  std::int64_t padded_dim_;
  PackedLayout layout_;
  std::int64_t heads_a_round_;
  base::AlignedBuffer<std::byte> packed_;
  base::AlignedBuffer<std::byte> packed_columns_;
  std::vector<PackedColumns> columns_;  // a query head
  std::vector<Worker> workers_;
  std::vector<std::vector<WorkItem>> items_;  // a round
};

}  // namespace

void attention(const AttentionCall& call, base::Executor& executor, const Stages& stages) {
  try {
    Attention(call, executor, stages).run();
  } catch (const std::bad_alloc&) {
    throw base::Error(base::ErrorCode::out_of_memory,
                      "memory is exhausted: attention has no room for its plan");
  }
}

}  // namespace minference::kernels::amx
