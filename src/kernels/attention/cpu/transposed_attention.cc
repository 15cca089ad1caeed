#include "kernels/attention/cpu/transposed_attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"

namespace minference::kernels {
namespace {

// KV heads are prepared in waves that fit this, one head at least: 128K keys of two heads of 64 bf16.
constexpr std::int64_t kPreparedBytes = 32 << 20;
// Keys that one worker prepares at a time; even.
constexpr std::int64_t kPreparedKeys = 512;
// Below this many multiplications waking the workers costs more than they save.
constexpr std::int64_t kSerialMultiplications = 1 << 21;

static_assert(kSliceRows == sparse::kRowBlock && kTileKeys == sparse::kKeyTile);

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Where the operands of one KV head lie; pitches in bytes.
struct HeadOperands {
  const char* key;
  std::int64_t key_pitch;
  const char* value;
  std::int64_t value_pitch;
};

// The operands of the KV heads of a wave. Tensors whose rows are operands as they are are read in place.
class PreparedHeads {
 public:
  PreparedHeads(const AttentionCall& call, const SliceKernel& kernel)
      : call_(call),
        kernel_(kernel),
        keys_in_place_(call.key.dtype == kernel.operand_type),
        values_in_place_(keys_in_place_ && kernel.pack == 1),
        key_operands_(keys_in_place_ ? 0 : call.key.rows * call.key.dim / kernel.pack),
        value_operands_(values_in_place_ ? 0 : round_up(call.key.rows, 2) / kernel.pack * call.key.dim) {
    const std::int64_t head_bytes =
        (key_operands_ + value_operands_) * static_cast<std::int64_t>(sizeof(Operand));
    heads_a_wave_ = head_bytes == 0
                        ? call.key.heads
                        : std::clamp(kPreparedBytes / head_bytes, std::int64_t{1}, call.key.heads);
    buffer_ = base::AlignedBuffer<Operand>(
        static_cast<std::size_t>(heads_a_wave_ * (key_operands_ + value_operands_)));
    zero_row_.assign(static_cast<std::size_t>(call.key.dim), 0);
  }

  std::int64_t heads_a_wave() const { return heads_a_wave_; }
  bool keys_in_place() const { return keys_in_place_; }
  // Zeros of any type, head_dim of them.
  const void* zero_row() const { return zero_row_.data(); }

  std::int64_t chunks_a_head() const {
    return buffer_.size() == 0 ? 0 : (call_.key.rows + kPreparedKeys - 1) / kPreparedKeys;
  }

  void prepare(std::int64_t kv_head, std::int64_t chunk) {
    const base::DType type = call_.key.dtype;
    const int head_dim = static_cast<int>(call_.key.dim);
    Operand* keys = buffer_.data() + kv_head % heads_a_wave_ * (key_operands_ + value_operands_);
    Operand* values = keys + key_operands_;
    const std::int64_t end = std::min((chunk + 1) * kPreparedKeys, call_.key.rows);
    for (std::int64_t k = chunk * kPreparedKeys; k < end; k += 2) {
      const bool has_odd = k + 1 < end;
      if (!keys_in_place_) {
        kernel_.pack_key(type, row(call_.key, kv_head, k), head_dim, keys + k * head_dim / kernel_.pack);
        if (has_odd) {
          kernel_.pack_key(type, row(call_.key, kv_head, k + 1), head_dim,
                           keys + (k + 1) * head_dim / kernel_.pack);
        }
      }
      if (!values_in_place_) {
        kernel_.pack_values(type, row(call_.value, kv_head, k),
                            has_odd ? row(call_.value, kv_head, k + 1) : zero_row(), head_dim,
                            values + k / kernel_.pack * head_dim);
      }
    }
  }

  HeadOperands operands(std::int64_t kv_head) const {
    const std::int64_t row_bytes = call_.key.dim * static_cast<std::int64_t>(sizeof(Operand));
    const Operand* keys = buffer_.data() + kv_head % heads_a_wave_ * (key_operands_ + value_operands_);
    HeadOperands operands{reinterpret_cast<const char*>(keys), row_bytes / kernel_.pack,
                          reinterpret_cast<const char*>(keys + key_operands_), row_bytes};
    if (keys_in_place_) {
      operands.key = static_cast<const char*>(row(call_.key, kv_head, 0));
      operands.key_pitch = call_.key.row_stride * static_cast<std::int64_t>(base::size_of(call_.key.dtype));
    }
    if (values_in_place_) {
      operands.value = static_cast<const char*>(row(call_.value, kv_head, 0));
      operands.value_pitch =
          call_.value.row_stride * static_cast<std::int64_t>(base::size_of(call_.key.dtype));
    }
    return operands;
  }

  static const void* row(const base::InputHeads& x, std::int64_t head, std::int64_t row_index) {
    return static_cast<const char*>(x.data) + (head * x.head_stride + row_index * x.row_stride) *
                                                  static_cast<std::int64_t>(base::size_of(x.dtype));
  }

 private:
  const AttentionCall& call_;
  const SliceKernel& kernel_;
  bool keys_in_place_, values_in_place_;
  std::int64_t key_operands_, value_operands_;  // of one head in buffer_
  std::int64_t heads_a_wave_ = 1;
  base::AlignedBuffer<Operand> buffer_;
  std::vector<float> zero_row_;
};

// One worker's memory: the state of a slice, and a tile of keys that do not lie next to each other.
class Worker {
 public:
  Worker(const AttentionCall& call, const SliceKernel& kernel) {
    sparse::reserve_keys(*call.index, keys_);
    const std::int64_t dim = round_up(call.query.dim, 16);
    const std::int64_t words = round_up(call.query.dim / kernel.pack, 16);
    const std::int64_t lane_floats = 3 * kSliceRows;
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
    state_.tile_sum = take(kSliceRows);
    state_.rows = reinterpret_cast<Operand*>(take(16 * dim));
    tile_keys_ = reinterpret_cast<Operand*>(take(kTileKeys * words));
    tile_values_ = reinterpret_cast<Operand*>(take(kTileKeys * dim));
  }

  void attend(const AttentionCall& call, const SliceKernel& kernel, const PreparedHeads& prepared,
              std::int64_t head, const sparse::RowSlice& slice);

 private:
  struct Place {
    const AttentionCall& call;
    const SliceKernel& kernel;
    const PreparedHeads& prepared;
    std::int64_t kv_head;
    HeadOperands operands;
    std::int64_t first_position, last_position;  // of the slice's rows
  };

  void attend_tile(const Place& place, const sparse::KeyTile& tile, const sparse::KeyTile* next);
  void attend_columns(const Place& place, std::span<const std::int32_t> columns, bool masked);
  template <class KeyAt>
  void gather_keys(const Place& place, int count, KeyAt key_at);
  template <class KeyAt>
  void gather_values(const Place& place, int count, KeyAt key_at);
  template <class KeyAt>
  void attend_masked(const Place& place, KeyValueTile& tile, int count, bool masked, KeyAt key_at);
  void write_lse(const AttentionCall& call, std::int64_t head, const sparse::RowSlice& slice) const;

  sparse::RowSliceKeys keys_;
  base::AlignedBuffer<float> memory_;
  SliceState state_{};
  Operand* tile_keys_;
  Operand* tile_values_;
  std::uint64_t lanes_[kTileKeys];
};

void Worker::attend(const AttentionCall& call, const SliceKernel& kernel, const PreparedHeads& prepared,
                    std::int64_t head, const sparse::RowSlice& slice) {
  const sparse::SparseIndex& index = *call.index;
  const std::int64_t kv_head = head / (call.query.heads / call.key.heads);
  const Place place{call,
                    kernel,
                    prepared,
                    kv_head,
                    prepared.operands(kv_head),
                    sparse::position_of_row(index.q_len, index.kv_len, slice.begin),
                    sparse::position_of_row(index.q_len, index.kv_len, slice.end - 1)};
  sparse::keys_of_slice(index, head, slice, keys_);
  state_.first_lane = kSliceRows - static_cast<int>(slice.end - slice.begin);
  kernel.begin(state_, call.query.dtype, PreparedHeads::row(call.query, head, slice.begin),
               call.query.row_stride);

  const std::span<const sparse::KeyTile> tiles = keys_.tiles;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    attend_tile(place, tiles[i], i + 1 < tiles.size() ? &tiles[i + 1] : nullptr);
  }
  for (std::span<const std::int32_t> columns = keys_.columns; !columns.empty();) {
    const std::size_t count = std::min<std::size_t>(columns.size(), kTileKeys);
    attend_columns(place, columns.first(count), keys_.columns_masked);
    columns = columns.subspan(count);
  }

  const auto size = static_cast<std::int64_t>(base::size_of(call.out.dtype));
  char* out = static_cast<char*>(call.out.data) +
              (head * call.out.head_stride + slice.begin * call.out.row_stride) * size;
  kernel.finish(state_, call.out.dtype, out, call.out.row_stride);
  if (call.lse.data) write_lse(call, head, slice);
}

void Worker::attend_tile(const Place& place, const sparse::KeyTile& tile, const sparse::KeyTile* next) {
  const auto key_at = [&](int i) { return tile.begin + i; };
  const HeadOperands& operands = place.operands;
  KeyValueTile rows{};
  // A tile of less than 64 keys may end where the tensor ends: it is read in place only when its size needs
  // no padding.
  const bool whole = tile.count % 2 == 0 && tile.count >= 4;
  if (whole) {
    rows.key = operands.key + tile.begin * operands.key_pitch;
    rows.key_pitch = operands.key_pitch;
  } else {
    gather_keys(place, tile.count, key_at);
    rows.key = tile_keys_;
    rows.key_pitch = place.call.key.dim / place.kernel.pack * static_cast<std::int64_t>(sizeof(Operand));
  }
  if (whole && tile.begin % place.kernel.pack == 0) {
    rows.value = operands.value + tile.begin / place.kernel.pack * operands.value_pitch;
    rows.value_pitch = operands.value_pitch;
  } else {
    // Values of an odd start pair up differently from the prepared ones: 2 % of the tile's time.
    gather_values(place, tile.count, key_at);
    rows.value = tile_values_;
    rows.value_pitch = place.call.key.dim * static_cast<std::int64_t>(sizeof(Operand));
  }
  if (next) rows.next_key = operands.key + next->begin * operands.key_pitch;
  attend_masked(place, rows, tile.count, tile.masked, key_at);
}

void Worker::attend_columns(const Place& place, std::span<const std::int32_t> columns, bool masked) {
  const auto key_at = [&](int i) { return std::int64_t{columns[static_cast<std::size_t>(i)]}; };
  const int count = static_cast<int>(columns.size());
  gather_keys(place, count, key_at);
  gather_values(place, count, key_at);
  const std::int64_t row_bytes = place.call.key.dim * static_cast<std::int64_t>(sizeof(Operand));
  KeyValueTile rows{.key = tile_keys_,
                    .key_pitch = row_bytes / place.kernel.pack,
                    .value = tile_values_,
                    .value_pitch = row_bytes};
  attend_masked(place, rows, count, masked, key_at);
}

int padded_count(int count) {
  return std::max(4, (count + 1) & -2);
}

template <class KeyAt>
void Worker::gather_keys(const Place& place, int count, KeyAt key_at) {
  const base::InputHeads& key = place.call.key;
  for (int i = 0; i < padded_count(count); ++i) {
    const void* row =
        i < count ? PreparedHeads::row(key, place.kv_head, key_at(i)) : place.prepared.zero_row();
    place.kernel.pack_key(key.dtype, row, state_.head_dim,
                          tile_keys_ + i * (state_.head_dim / place.kernel.pack));
  }
}

template <class KeyAt>
void Worker::gather_values(const Place& place, int count, KeyAt key_at) {
  const base::InputHeads& value = place.call.value;
  const auto row = [&](int i) {
    return i < count ? PreparedHeads::row(value, place.kv_head, key_at(i)) : place.prepared.zero_row();
  };
  for (int i = 0; i < padded_count(count); i += 2) {
    place.kernel.pack_values(value.dtype, row(i), row(i + 1), state_.head_dim,
                             tile_values_ + i / place.kernel.pack * state_.head_dim);
  }
}

template <class KeyAt>
void Worker::attend_masked(const Place& place, KeyValueTile& tile, int count, bool masked, KeyAt key_at) {
  tile.num_keys = padded_count(count);
  if (masked || count < kTileKeys) {
    for (int i = 0; i < tile.num_keys; ++i) {
      lanes_[i] = 0;
      if (i >= count) continue;
      const auto [first, last] = keys_.rule.queries_of(key_at(i), place.first_position, place.last_position);
      if (last < first) continue;
      // Lanes are aligned to the last row.
      const int lane = kSliceRows - 1 - static_cast<int>(place.last_position - last);
      const int rows = static_cast<int>(last - first + 1);
      lanes_[i] = ~std::uint64_t{0} >> (kSliceRows - rows) << (lane - rows + 1);
    }
    tile.lanes = lanes_;
  }
  place.kernel.attend(state_, tile);
}

void Worker::write_lse(const AttentionCall& call, std::int64_t head, const sparse::RowSlice& slice) const {
  for (std::int64_t row = slice.begin; row < slice.end; ++row) {
    const std::int64_t lane = kSliceRows - (slice.end - row);
    const float sum = state_.row_sum[lane];
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
  PreparedHeads prepared(call, kernel);
  std::vector<std::vector<WorkItem>> waves;
  for (std::int64_t first = 0; first < call.key.heads; first += prepared.heads_a_wave()) {
    const std::int64_t end = std::min(first + prepared.heads_a_wave(), call.key.heads);
    waves.push_back(work_of_heads(*call.index, first * group, end * group));
  }
  const bool serial =
      call.query.heads * call.query.rows * call.key.rows * call.query.dim < kSerialMultiplications;
  std::vector<Worker> workers;
  for (int i = 0; i < (serial ? 1 : executor.num_workers()); ++i) workers.emplace_back(call, kernel);

  const auto for_each = [&](std::int64_t count, const auto& body) {
    if (!serial) return executor.parallel_for(count, body);
    for (std::int64_t i = 0; i < count; ++i) body(i, 0);
  };
  for (std::size_t wave = 0; wave < waves.size(); ++wave) {
    const std::int64_t first = static_cast<std::int64_t>(wave) * prepared.heads_a_wave();
    const std::int64_t num_heads = std::min(prepared.heads_a_wave(), call.key.heads - first);
    if (const std::int64_t chunks = prepared.chunks_a_head(); chunks > 0) {
      for_each(num_heads * chunks,
               [&](std::int64_t i, int) { prepared.prepare(first + i / chunks, i % chunks); });
    }
    const std::vector<WorkItem>& items = waves[wave];
    for_each(static_cast<std::int64_t>(items.size()), [&](std::int64_t i, int worker) {
      const WorkItem& item = items[static_cast<std::size_t>(i)];
      workers[static_cast<std::size_t>(worker)].attend(call, kernel, prepared, item.head, item.slice);
    });
  }
}

}  // namespace minference::kernels
