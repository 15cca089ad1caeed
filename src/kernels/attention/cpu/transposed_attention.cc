#include "kernels/attention/cpu/transposed_attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/denormals.h"
#include "kernels/attention/cpu/prepared_operands.h"

namespace minference::kernels {
namespace {

// Below this many multiplications waking the workers costs more than they save.
constexpr std::int64_t kSerialMultiplications = 1 << 21;

static_assert(kSliceRows == sparse::kRowBlock && kTileKeys == sparse::kKeyTile);

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// One worker's memory: the state of a slice, and a tile of keys that do not lie next to each other.
class Worker {
 public:
  Worker(const AttentionCall& call, const SliceKernel& kernel) {
    sparse::reserve_keys(*call.index, keys_);
    const std::int64_t dim = round_up(call.query.dim, 16);
    const std::int64_t words = round_up(call.query.dim / kernel.pack, 16);
    const std::int64_t lane_floats = 6 * kSliceRows;
    memory_ = base::AlignedBuffer<float>(
        static_cast<std::size_t>((words + kTileKeys / kernel.pack + kTileKeys + dim) * kSliceRows +
                                 lane_floats + 16 * dim + 2 * kTileKeys * words + kTileKeys * dim));
    float* next = memory_.data();
    const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
    state_.head_dim = static_cast<int>(call.query.dim);
    state_.scale_log2 = call.softmax_scale * std::numbers::log2e_v<float>;
    state_.query = reinterpret_cast<Operand*>(take(words * kSliceRows));
    state_.probabilities = reinterpret_cast<Operand*>(take(kTileKeys / kernel.pack * kSliceRows));
    state_.scores = take(kTileKeys * kSliceRows);
    state_.accumulator = take(dim * kSliceRows);
    state_.reference = take(kSliceRows);
    state_.row_sum = take(kSliceRows);
    float* const lse_sum = take(kSliceRows);
    if (call.lse.data && kernel.rounds_exponents) state_.lse_sum = lse_sum;
    state_.tile_sum = take(kSliceRows);
    state_.tile_lse_sum = take(kSliceRows);
    state_.offset = take(kSliceRows);
    state_.rows = reinterpret_cast<Operand*>(take(16 * dim));
    tile_keys_ = reinterpret_cast<Operand*>(take(kTileKeys * words));
    tile_values_ = reinterpret_cast<Operand*>(take(kTileKeys * dim));
  }

  void attend(const AttentionCall& call, const SliceKernel& kernel, const PreparedOperands& prepared,
              std::int64_t head, const sparse::RowSlice& slice);

 private:
  // What the tiles of a slice have in common.
  struct Place {
    const AttentionCall& call;
    const SliceKernel& kernel;
    const PreparedOperands& prepared;
    std::int64_t head, kv_head;
    std::int64_t first_position, last_position;  // of the slice's rows
  };

  void attend_tile(const Place& place, const sparse::KeyTile& tile, const sparse::KeyTile* next);
  void attend_columns(const Place& place);
  bool attend_prepared_columns(const Place& place, std::int64_t chunk, std::int32_t last_column,
                               std::span<const std::int32_t> columns);
  void attend_gathered_columns(const Place& place, std::span<const std::int32_t> columns);
  template <class KeyAt>
  void gather_keys(const Place& place, int count, KeyAt key_at);
  template <class KeyAt>
  void gather_values(const Place& place, int count, KeyAt key_at);
  template <class KeyAt>
  void fill_lanes(const Place& place, int count, KeyAt key_at);
  void write_lse(const AttentionCall& call, std::int64_t head, const sparse::RowSlice& slice) const;

  sparse::RowSliceKeys keys_;
  base::AlignedBuffer<float> memory_;
  SliceState state_{};
  Operand* tile_keys_;
  Operand* tile_values_;
  std::uint64_t lanes_[kTileKeys];
};

// Brings rows to the second-level cache while something else is done.
void prefetch_rows(const void* rows, std::int64_t pitch, std::int64_t count, std::int64_t bytes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const char* row = static_cast<const char*>(rows) + i * pitch;
    for (std::int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
  }
}

void Worker::attend(const AttentionCall& call, const SliceKernel& kernel, const PreparedOperands& prepared,
                    std::int64_t head, const sparse::RowSlice& slice) {
  const cpu::DenormalsAreZero denormals;
  const sparse::SparseIndex& index = *call.index;
  const Place place{call,
                    kernel,
                    prepared,
                    head,
                    head / (call.query.heads / call.key.heads),
                    sparse::position_of_row(index.q_len, index.kv_len, slice.begin),
                    sparse::position_of_row(index.q_len, index.kv_len, slice.end - 1)};
  const auto size = static_cast<std::int64_t>(base::size_of(call.query.dtype));
  const std::int64_t num_rows = slice.end - slice.begin;
  const void* query = row_of(call.query, head, slice.begin);
  char* out = static_cast<char*>(call.out.data) +
              (head * call.out.head_stride + slice.begin * call.out.row_stride) * size;
  prefetch_rows(query, call.query.row_stride * size, num_rows, call.query.dim * size);
  sparse::keys_of_slice(index, head, slice, keys_);
  if (!keys_.tiles.empty()) {
    const sparse::KeyTile& first = keys_.tiles.front();
    const KeyValueOperands operands = prepared.keys_from(place.kv_head, first.begin);
    const std::int64_t row_bytes = call.key.dim * static_cast<std::int64_t>(sizeof(Operand));
    prefetch_rows(operands.key, operands.key_pitch, first.count, row_bytes / kernel.pack);
    prefetch_rows(operands.value, operands.value_pitch, first.count / kernel.pack, row_bytes);
  }
  state_.first_lane = kSliceRows - static_cast<int>(num_rows);
  kernel.begin(state_, call.query.dtype, query, call.query.row_stride);

  for (std::size_t i = 0; i < keys_.tiles.size(); ++i) {
    attend_tile(place, keys_.tiles[i], i + 1 < keys_.tiles.size() ? &keys_.tiles[i + 1] : nullptr);
  }
  attend_columns(place);

  prefetch_rows(out, call.out.row_stride * size, num_rows, call.out.dim * size);
  kernel.finish(state_, call.out.dtype, out, call.out.row_stride);
  if (call.lse.data) write_lse(call, head, slice);
}

int padded_count(int count) {
  return std::max(4, (count + 1) & -2);
}

void Worker::attend_tile(const Place& place, const sparse::KeyTile& tile, const sparse::KeyTile* next) {
  const auto key_at = [&](int i) { return tile.begin + i; };
  // Kernels read an even number of keys: a tile that ends before that is copied, lest they read past the
  // tensor.
  const bool in_place = padded_count(tile.count) == tile.count;
  const KeyValueOperands prepared =
      in_place ? place.prepared.keys_from(place.kv_head, tile.begin) : KeyValueOperands{};
  if (!prepared.key) gather_keys(place, tile.count, key_at);
  if (!prepared.value) gather_values(place, tile.count, key_at);
  const std::int64_t row_bytes = state_.head_dim * static_cast<std::int64_t>(sizeof(Operand));
  KeyValueTile operands{};
  operands.key = prepared.key ? static_cast<const void*>(prepared.key) : tile_keys_;
  operands.key_pitch = prepared.key ? prepared.key_pitch : row_bytes / place.kernel.pack;
  operands.value = prepared.value ? static_cast<const void*>(prepared.value) : tile_values_;
  operands.value_pitch = prepared.value ? prepared.value_pitch : row_bytes;
  operands.num_keys = padded_count(tile.count);
  if (tile.masked || tile.count < kTileKeys) {
    fill_lanes(place, tile.count, key_at);
    operands.lanes = lanes_;
  }
  if (next) operands.next_key = place.prepared.keys_from(place.kv_head, next->begin).key;
  place.kernel.attend(state_, operands);
}

// Prepared chunks of 64 columns are taken whole while few of their columns lie in tiles; what remains is
// gathered.
void Worker::attend_columns(const Place& place) {
  const std::vector<std::int32_t>& all = place.call.index->heads[place.head].columns;
  std::span<const std::int32_t> columns = keys_.columns;
  std::int32_t gathered[kTileKeys];
  std::size_t num_gathered = 0;
  for (std::int64_t chunk = 0; !columns.empty(); ++chunk) {
    const std::size_t last = std::min<std::size_t>((chunk + 1) * kTileKeys, all.size()) - 1;
    std::size_t count = std::min<std::size_t>(columns.size(), kTileKeys);
    while (count > 0 && columns[count - 1] > all[last]) --count;
    if (!attend_prepared_columns(place, chunk, all[last], columns.first(count))) {
      for (const std::int32_t column : columns.first(count)) {
        gathered[num_gathered++] = column;
        if (num_gathered == kTileKeys) attend_gathered_columns(place, gathered);
        num_gathered %= kTileKeys;
      }
    }
    columns = columns.subspan(count);
  }
  if (num_gathered > 0) attend_gathered_columns(place, std::span(gathered).first(num_gathered));
}

// `columns`: those of the chunk that lie in no tile.
bool Worker::attend_prepared_columns(const Place& place, std::int64_t chunk, std::int32_t last_column,
                                     std::span<const std::int32_t> columns) {
  // Below this the products wasted on columns in tiles cost more than gathering the others.
  constexpr std::size_t kMinColumns = kTileKeys - 8;
  const KeyValueOperands prepared = place.prepared.columns_of(place.head, chunk);
  if (!prepared.key || columns.size() < kMinColumns) return false;
  // The chunk's other columns are multiplied too, by zeros, which a value that is not finite survives: all
  // must be keys that every row of the slice attends to, here or in a tile.
  if (place.call.index->causal && last_column > place.first_position) return false;
  KeyValueTile operands{.key = prepared.key,
                        .key_pitch = prepared.key_pitch,
                        .value = prepared.value,
                        .value_pitch = prepared.value_pitch,
                        .num_keys = kTileKeys,
                        .lanes = nullptr,
                        .lanes_agree = true,
                        .next_key = prepared.key + kTileKeys * prepared.key_pitch};
  if (columns.size() < kTileKeys) {
    const std::int32_t* column = place.call.index->heads[place.head].columns.data() + chunk * kTileKeys;
    std::size_t next = 0;
    for (int i = 0; i < kTileKeys; ++i) {
      const bool listed = next < columns.size() && column[i] == columns[next];
      lanes_[i] = listed ? ~std::uint64_t{0} << state_.first_lane : 0;
      next += listed;
    }
    operands.lanes = lanes_;
  }
  place.kernel.attend(state_, operands);
  return true;
}

void Worker::attend_gathered_columns(const Place& place, std::span<const std::int32_t> columns) {
  const auto key_at = [&](int i) { return std::int64_t{columns[static_cast<std::size_t>(i)]}; };
  const int count = static_cast<int>(columns.size());
  gather_keys(place, count, key_at);
  gather_values(place, count, key_at);
  const std::int64_t row_bytes = state_.head_dim * static_cast<std::int64_t>(sizeof(Operand));
  KeyValueTile operands{};
  operands.key = tile_keys_;
  operands.key_pitch = row_bytes / place.kernel.pack;
  operands.value = tile_values_;
  operands.value_pitch = row_bytes;
  operands.num_keys = padded_count(count);
  if (keys_.columns_masked || count < kTileKeys) {
    fill_lanes(place, count, key_at);
    operands.lanes = lanes_;
  }
  place.kernel.attend(state_, operands);
}

template <class KeyAt>
void Worker::gather_keys(const Place& place, int count, KeyAt key_at) {
  const base::InputHeads& key = place.call.key;
  for (int i = 0; i < padded_count(count); ++i) {
    const void* row = i < count ? row_of(key, place.kv_head, key_at(i)) : place.prepared.zero_row();
    place.kernel.pack_key(key.dtype, row, state_.head_dim,
                          tile_keys_ + i * (state_.head_dim / place.kernel.pack));
  }
}

template <class KeyAt>
void Worker::gather_values(const Place& place, int count, KeyAt key_at) {
  const base::InputHeads& value = place.call.value;
  const auto row = [&](int i) {
    return i < count ? row_of(value, place.kv_head, key_at(i)) : place.prepared.zero_row();
  };
  for (int i = 0; i < padded_count(count); i += 2) {
    place.kernel.pack_values(value.dtype, row(i), row(i + 1), state_.head_dim,
                             tile_values_ + i / place.kernel.pack * state_.head_dim);
  }
}

template <class KeyAt>
void Worker::fill_lanes(const Place& place, int count, KeyAt key_at) {
  for (int i = 0; i < padded_count(count); ++i) {
    lanes_[i] = 0;
    if (i >= count) continue;
    const auto [first, last] = keys_.rule.queries_of(key_at(i), place.first_position, place.last_position);
    if (last < first) continue;
    // Rows fill the last lanes.
    const int lane = kSliceRows - 1 - static_cast<int>(place.last_position - last);
    const int rows = static_cast<int>(last - first + 1);
    lanes_[i] = ~std::uint64_t{0} >> (kSliceRows - rows) << (lane - rows + 1);
  }
}

void Worker::write_lse(const AttentionCall& call, std::int64_t head, const sparse::RowSlice& slice) const {
  const float* sums = state_.lse_sum ? state_.lse_sum : state_.row_sum;
  for (std::int64_t row = slice.begin; row < slice.end; ++row) {
    const std::int64_t lane = kSliceRows - (slice.end - row);
    const float sum = sums[lane];
    call.lse.at(head, row) = sum == 0
                                 ? -std::numeric_limits<float>::infinity()
                                 : (state_.reference[lane] + std::log2(sum)) * std::numbers::ln2_v<float>;
  }
}

struct WorkItem {
  std::int64_t head;
  sparse::RowSlice slice;
};

// The row slices of a wave's query heads, longest first: a causal slice has the more keys the later it
// begins.
std::vector<WorkItem> work_of_heads(const sparse::SparseIndex& index, std::int64_t first, std::int64_t end) {
  std::vector<WorkItem> items;
  for (std::int64_t head = first; head < end; ++head) {
    const std::int64_t last_dense_rows = index.heads[static_cast<std::size_t>(head)].last_dense_rows;
    for (const sparse::RowSlice& slice : sparse::row_slices(index.q_len, last_dense_rows))
      items.push_back({head, slice});
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const WorkItem& a, const WorkItem& b) { return a.slice.begin > b.slice.begin; });
  return items;
}

}  // namespace

void transposed_attention(const AttentionCall& call, base::Executor& executor, const SliceKernel& kernel) {
  const std::int64_t group = call.query.heads / call.key.heads;
  PreparedOperands prepared(call, kernel);
  std::vector<std::vector<WorkItem>> waves;
  for (std::int64_t first = 0; first < call.key.heads; first += prepared.heads_a_wave()) {
    const std::int64_t end = std::min(first + prepared.heads_a_wave(), call.key.heads);
    waves.push_back(work_of_heads(*call.index, first * group, end * group));
  }
  const bool serial =
      call.query.heads * call.query.rows * call.key.rows * call.query.dim < kSerialMultiplications;
  const int num_workers = serial ? 1 : executor.num_workers();
  std::vector<Worker> workers;
  workers.reserve(static_cast<std::size_t>(num_workers));
  for (int i = 0; i < num_workers; ++i) workers.emplace_back(call, kernel);

  const auto for_each = [&](std::int64_t count, const auto& body) {
    if (!serial) return executor.parallel_for(count, body);
    for (std::int64_t i = 0; i < count; ++i) body(i, 0);
  };
  std::int64_t first = 0;
  for (const std::vector<WorkItem>& items : waves) {
    const std::int64_t num_heads = std::min(prepared.heads_a_wave(), call.key.heads - first);
    for_each(prepared.num_tasks(num_heads),
             [&](std::int64_t task, int) { prepared.run_task(first, num_heads, task); });
    for_each(static_cast<std::int64_t>(items.size()), [&](std::int64_t i, int worker) {
      const WorkItem& item = items[static_cast<std::size_t>(i)];
      workers[static_cast<std::size_t>(worker)].attend(call, kernel, prepared, item.head, item.slice);
    });
    first += num_heads;
  }
}

}  // namespace minference::kernels
