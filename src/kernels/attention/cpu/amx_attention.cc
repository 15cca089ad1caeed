#include "kernels/attention/cpu/amx_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <new>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/denormals.h"
#include "kernels/attention/cpu/amx_operands.h"
#include "kernels/attention/cpu/amx_units.h"

// The AMX kernel's plan: which worker attends to what, and the state of its row groups. What runs on tiles is in
// amx_pipeline.h.
namespace minference::kernels::amx {
namespace {

using base::bfloat16;

// Row slices of query heads of one KV head that a worker takes through the keys together, so that the packed keys
// and values they share come from L3 once: as many heads as there are, then neighbouring row slices, whose tiles
// overlap.
constexpr std::int64_t kSlicesTogether = 16;
// Items that each worker should find, so that all end at about the same time.
constexpr std::int64_t kItemsAWorker = 8;

// Units that a row group takes in one turn.
constexpr int kTurnUnits = 32;

alignas(64) constexpr bfloat16 kZeroRow[kMaxHeadDim] = {};

void push_chunk(const Stages& stages, Pipeline& pipeline, RowGroup& rows, UnitCursor& units) {
  Chunk& chunk = pipeline.chunks[pipeline.next];
  chunk.rows = &rows;
  chunk.first = units.at_start();
  for (chunk.num_units = 0; chunk.num_units < kChunkUnits && !units.done(); ++chunk.num_units) {
    units.next(chunk.units[chunk.num_units], chunk.masks[chunk.num_units]);
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

// Heads of one KV head whose rows are cut alike, and neighbouring slices of those rows.
struct WorkItem {
  std::int64_t first_head, num_heads;
  std::span<const sparse::RowSlice> slices;
};

struct Worker {
  Worker(const sparse::SparseIndex& index, std::int64_t padded_dim)
      : pipeline(1),
        groups(kSlicesTogether * 2),
        memory(static_cast<std::size_t>(kSlicesTogether * 2 * group_bytes(padded_dim))) {
    slices.reserve(kSlicesTogether);
    for (std::int64_t i = 0; i < kSlicesTogether; ++i) slices.emplace_back(index, padded_dim);
    cursors.reserve(kSlicesTogether * 2);
  }

  // Of a row group's queries, sums and references.
  static std::int64_t group_bytes(std::int64_t padded_dim) {
    return kGroupRows * (padded_dim * 2 + padded_dim * 4 + 3 * 4);
  }

  base::AlignedBuffer<Pipeline> pipeline;
  base::AlignedBuffer<RowGroup> groups;
  base::AlignedBuffer<std::byte> memory;  // of the row groups
  std::vector<SliceUnits> slices;         // of all heads
  std::vector<UnitCursor> cursors;        // a row group
};

class Attention {
 public:
  Attention(const AttentionCall& call, base::Executor& executor, const Stages& stages)
      : call_(call), index_(*call.index), executor_(executor), stages_(stages), operands_(call, stages) {
    workers_.reserve(static_cast<std::size_t>(executor.num_workers()));
    for (int i = 0; i < executor.num_workers(); ++i) workers_.emplace_back(index_, operands_.padded_dim());
    for (std::int64_t kv_head = 0; kv_head < call.key.heads; kv_head = operands_.end_of_round(kv_head)) {
      list_work(kv_head, operands_.end_of_round(kv_head));
    }
  }

  void run() {
    std::int64_t kv_head = 0;
    for (const std::vector<WorkItem>& items : items_) {
      const std::int64_t end = operands_.end_of_round(kv_head);
      operands_.pack(kv_head, end, executor_);
      executor_.parallel_for(std::ssize(items), [&](std::int64_t i, int worker) {
        attend(items[static_cast<std::size_t>(i)], workers_[static_cast<std::size_t>(worker)]);
      });
      kv_head = end;
    }
  }

 private:
  std::int64_t group() const { return call_.query.heads / call_.key.heads; }

  // A round's work, longest first: with a causal index the last rows reach most keys.
  void list_work(std::int64_t first_kv_head, std::int64_t end_kv_head) {
    std::vector<WorkItem>& items = items_.emplace_back();
    for (std::int64_t head = first_kv_head * group(); head < end_kv_head * group();) {
      const std::int64_t end_of_group = (head / group() + 1) * group();
      const std::int64_t last_dense_rows = index_.heads[static_cast<std::size_t>(head)].last_dense_rows;
      std::int64_t end = head + 1;
      while (end < end_of_group && end - head < kSlicesTogether &&
             index_.heads[static_cast<std::size_t>(end)].last_dense_rows == last_dense_rows) {
        ++end;
      }
      const std::vector<sparse::RowSlice>& slices =
          slices_.emplace_back(sparse::row_slices(index_.q_len, last_dense_rows));
      const std::int64_t num_slices = std::ssize(slices), together = slices_together(end - head, num_slices);
      for (std::int64_t first = 0; first < num_slices; first += together) {
        const std::int64_t count = std::min(together, num_slices - first);
        items.push_back({head, end - head, {slices.data() + first, static_cast<std::size_t>(count)}});
      }
      head = end;
    }
    std::stable_sort(items.begin(), items.end(), [](const WorkItem& a, const WorkItem& b) {
      return a.slices.front().begin > b.slices.front().begin;
    });
  }

  std::int64_t slices_together(std::int64_t num_heads, std::int64_t num_slices) const {
    const std::int64_t items = num_slices * call_.query.heads / num_heads;
    const std::int64_t fair = items / (kItemsAWorker * executor_.num_workers());
    return std::max<std::int64_t>(1, std::min(kSlicesTogether / num_heads, fair));
  }

  void attend(const WorkItem& item, Worker& worker) {
    Pipeline& pipeline = worker.pipeline[0];
    pipeline.head_dim = call_.query.dim;
    pipeline.padded_dim = operands_.padded_dim();
    constexpr float kLog2E = 1.44269504f;
    pipeline.scale = call_.softmax_scale * kLog2E;
    pipeline.with_lse = call_.lse.data != nullptr;

    worker.cursors.clear();
    std::size_t num_lists = 0;
    for (std::int64_t head = item.first_head; head < item.first_head + item.num_heads; ++head) {
      for (const sparse::RowSlice& slice : item.slices) {
        SliceUnits& units = worker.slices[num_lists++];
        units.list(index_, head, head / group(), slice, operands_);
        load_slice(head, slice, units, worker);
      }
    }

    const cpu::DenormalsAreZero denormals;
    stages_.begin(pipeline);
    stream(worker);
    for (std::size_t g = 0; g < worker.cursors.size(); ++g) {
      if (worker.groups[g].out_of_range) repeat(worker, worker.cursors[g].slice(), worker.groups[g]);
    }
    stages_.end(pipeline);
  }

  // The row groups of a head's slice.
  void load_slice(std::int64_t head, const sparse::RowSlice& slice, const SliceUnits& units, Worker& worker) {
    for (std::int64_t row = slice.begin; row < slice.end; row += kGroupRows) {
      const std::size_t g = worker.cursors.size();
      RowGroup& rows = worker.groups[g];
      std::byte* memory =
          worker.memory.data() + static_cast<std::int64_t>(g) * Worker::group_bytes(operands_.padded_dim());
      load_rows(head, row, std::min(slice.end, row + kGroupRows), memory, rows);
      worker.cursors.emplace_back(units, rows, operands_);
      if (worker.cursors.back().done()) clear_rows(rows);
    }
  }

  // Query rows [begin, end) of a head.
  void load_rows(std::int64_t head, std::int64_t begin, std::int64_t end, std::byte* memory, RowGroup& rows) {
    const std::int64_t padded_dim = operands_.padded_dim();
    rows.query = memory;
    rows.out_sums = reinterpret_cast<float*>(memory + kGroupRows * padded_dim * 2);
    rows.exp_sums = rows.out_sums + kGroupRows * padded_dim;
    rows.reference = rows.exp_sums + kGroupRows;
    rows.lse_sums = rows.reference + kGroupRows;
    rows.has_reference = rows.out_of_range = false;
    rows.first_position = sparse::position_of_row(index_.q_len, index_.kv_len, begin);
    rows.num_rows = static_cast<int>(end - begin);
    rows.out = call_.out.row<bfloat16>(head, begin);
    rows.out_stride = call_.out.row_stride;
    rows.lse = call_.lse.data ? &call_.lse.at(head, begin) : nullptr;
    rows.lse_stride = call_.lse.row_stride;
    const bfloat16* queries[kGroupRows];
    for (std::int64_t i = 0; i < kGroupRows; ++i) {
      queries[i] = i < rows.num_rows ? call_.query.row<const bfloat16>(head, begin + i) : kZeroRow;
    }
    stages_.pack_queries(queries, call_.query.dim, padded_dim, rows.query);
  }

  void clear_rows(const RowGroup& rows) {
    for (int i = 0; i < rows.num_rows; ++i) {
      std::fill_n(rows.out + i * rows.out_stride, call_.out.dim, bfloat16{0});
      if (rows.lse) rows.lse[i * rows.lse_stride] = -std::numeric_limits<float>::infinity();
    }
  }

  // Row groups take turns, so that heads with the same or near tiles find the keys and values in L2 that the
  // first of them brought from L3.
  void stream(Worker& worker) {
    Pipeline& pipeline = worker.pipeline[0];
    for (bool more = true; more;) {
      more = false;
      for (std::size_t g = 0; g < worker.cursors.size(); ++g) {
        UnitCursor& units = worker.cursors[g];
        for (int i = 0; i < kTurnUnits && !units.done(); i += kChunkUnits) {
          push_chunk(stages_, pipeline, worker.groups[g], units);
        }
        more |= !units.done();
      }
    }
    drain(stages_, pipeline);
  }

  // Row groups whose first unit was no measure of the others: the largest score first, then all over again.
  void repeat(Worker& worker, const SliceUnits& slice, RowGroup& rows) {
    Pipeline& pipeline = worker.pipeline[0];
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    float* const end_of_reference = rows.reference + kGroupRows;
    std::fill(rows.reference, end_of_reference, kLowest);
    Unit unit;
    std::uint32_t masks[kUnitKeys];
    for (UnitCursor units(slice, rows, operands_); !units.done();) {
      units.next(unit, masks);
      stages_.raise_reference(pipeline, rows, unit, masks);
    }
    std::replace(rows.reference, end_of_reference, kLowest, 0.0f);
    // The stages want whole numbers.
    std::transform(rows.reference, end_of_reference, rows.reference, [](float x) { return std::ceil(x); });
    rows.has_reference = true;
    for (UnitCursor units(slice, rows, operands_); !units.done();) push_chunk(stages_, pipeline, rows, units);
    drain(stages_, pipeline);
  }

  const AttentionCall& call_;
  const sparse::SparseIndex& index_;
  base::Executor& executor_;
  const Stages& stages_;
  PackedOperands operands_;
  std::vector<Worker> workers_;
  std::deque<std::vector<sparse::RowSlice>> slices_;  // what items point to
  std::vector<std::vector<WorkItem>> items_;          // a round
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
