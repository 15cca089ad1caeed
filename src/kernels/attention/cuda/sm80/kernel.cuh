#pragma once

#include <cmath>

#include "base/tensor.h"
#include "cuda/barrier.cuh"
#include "cuda/copy_async.cuh"
#include "cuda/math.cuh"
#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/schedule.h"
#include "kernels/attention/cuda/sm80/config.h"
#include "kernels/attention/cuda/sm80/softmax.cuh"
#include "kernels/attention/cuda/visible_keys.h"

// Attention over lists of 64-key tiles and gathered columns with the instructions of sm_80: mma.sync, ldmatrix
// and cp.async. docs/kernels/attention-sm80.md has the schedule.
namespace minference::kernels::cuda::sm80 {

// Rows of 16-bit elements on 16-byte boundaries; strides in bytes.
struct ByteRows {
  const char* data;
  std::int64_t head_stride;
  std::int32_t row_stride;
};

struct Arguments {
  ByteRows query, key, value;
  base::OutputHeads out;
  bool out_aligned;  // its rows begin on 16-byte boundaries
  base::RowsView lse;
  float scale_log2;  // softmax_scale * log2(e)
  std::int32_t head_dim;
  CallShape shape;
  Schedule schedule;
  sparse::DeviceIndex index;
  const std::uint32_t* cover;  // [num_query_heads, cover_words]; nullptr: no head has tiles and columns
};

template <class Config>
class Warp {
 public:
  __device__ __forceinline__ Warp(SharedMemory<Config>& shared, const Arguments& arguments)
      : shared_(shared), arguments_(arguments) {
    using minference::cuda::shared_address;
    const int row = lane() % 16, chunk = lane() / 16;  // of ldmatrix, for queries and values
    query_ = shared_address(shared.query) + Config::chunk_offset(warp_row() + row, chunk);
    value_ = shared_address(shared.tile[team()][1]) + Config::chunk_offset(row, chunk);
    key_ = shared_address(shared.tile[team()][0]) +
           Config::chunk_offset(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2);
    copy_ = shared_address(shared.tile[team()][0]) +
            Config::chunk_offset(team_warp() * Config::kWarpTileRows + copy_row(), copy_chunk());
  }

  __device__ __forceinline__ void run() {
    load_query();
    advance();
    if (!done_) {
      list_columns();
      load(0, arguments_.key.row_stride);
    }
    minference::cuda::copy_async_commit();
    minference::cuda::copy_async_wait<0>();
    __syncthreads();  // every warp has copied a part of the queries
    while (!done_) {
      minference::cuda::copy_async_wait<0>();
      team_barrier();  // the keys are here; the values before have been used
      load(1, arguments_.value.row_stride);
      minference::cuda::copy_async_commit();
      float scores[Config::kRowTiles][kKeyOctets][4] = {};
      multiply_scores(scores);
      mask(scores);
      advance();
      minference::cuda::copy_async_wait<0>();
      team_barrier();  // the values are here; keys and columns have been used
      if (!done_) {
        list_columns();
        load(0, arguments_.key.row_stride);
        minference::cuda::copy_async_commit();
      }
      weigh(scores);
      multiply_values(scores);
    }
    minference::cuda::copy_async_wait<0>();
    finish();
  }

 private:
  static constexpr int kKeyOctets = kTileKeys / 8;
  static constexpr int kDimOctets = Config::kHeadDim / 8;
  static constexpr int kNoColumn = -1;

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int team() { return warp() / Config::kTeamWarps; }
  static __device__ __forceinline__ int team_warp() { return warp() % Config::kTeamWarps; }
  static __device__ __forceinline__ int warp_row() { return team_warp() * Config::kWarpRows; }

  static __device__ __forceinline__ void team_barrier() {
    minference::cuda::named_barrier_sync<Config::kTeamThreads>(1 + team());
  }

  __device__ __forceinline__ const Item& item() const { return shared_.item; }

  // ---- Which tile is next

  // To the team's next tile or, behind the last one, its next 64 columns.
  __device__ __forceinline__ void advance() {
    if (!in_columns_) {
      tile_ += Config::kTeams;
      if (tile_ < item().num_tiles) {
        start_ = item().start_of(tile_);
        if (start_ > -kTileKeys) return;  // otherwise the rest lies before key 0
      }
      in_columns_ = true;
      tile_ = -1 - team();  // so that the team with the odd tile gets the first columns last
    }
    tile_ += Config::kTeams;
    const int first = tile_ * kTileKeys;
    done_ = first >= item().num_columns || item().columns[first] >= item().key_end;
  }

  // This warp's part of the keys of a tile of columns, without those that lie in the head's tiles.
  __device__ __forceinline__ void list_columns() {
    if (!in_columns_) return;
    static_assert(Config::kWarpTileRows <= 32);
    if (lane() < Config::kWarpTileRows) {
      const int at = team_warp() * Config::kWarpTileRows + lane();
      const int number = tile_ * kTileKeys + at;
      int key = number < item().num_columns ? item().columns[number] : kNoColumn;
      if (key >= item().key_end) key = kNoColumn;
      if (key >= 0 && item().cover != nullptr &&
          covers(item().cover, arguments_.shape.kv_len, key - item().block_position))
        key = kNoColumn;
      shared_.column[team()][at] = key;
    }
    __syncwarp();
  }

  // ---- Copies to shared memory. A warp copies four rows at a time, eight chunks of each.

  static constexpr int kCopyRows = 4;
  static __device__ __forceinline__ int copy_row() { return lane() / 8; }
  static __device__ __forceinline__ int copy_chunk() { return lane() % 8; }

  // `Rows` rows to `to`, where this lane's chunk of the first one goes: row r is row_of(r) of `source`, or zero
  // where that lies outside [0, num_rows).
  template <int Rows, class RowOf>
  __device__ __forceinline__ void copy_rows(std::uint32_t to, const char* source, std::int32_t row_stride,
                                            int num_rows, RowOf&& row_of) const {
    const int chunks_left = arguments_.head_dim / kChunkElements - copy_chunk();
    source += 16 * copy_chunk();
#pragma unroll
    for (int i = 0; i < Rows / kCopyRows; ++i) {
      const int row = row_of(i * kCopyRows + copy_row());
      const bool present = static_cast<unsigned>(row) < static_cast<unsigned>(num_rows);
      const char* from = source + static_cast<std::int64_t>(present ? row : 0) * row_stride;
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        constexpr bool kWhole = Config::kChunks % 8 == 0;
        if (kWhole || panel + 1 < Config::kPanels || copy_chunk() < Config::kChunks % 8) {
          minference::cuda::copy_async(after_rows(to, i * kCopyRows) + 128 * panel, from + 128 * panel,
                                       present && 8 * panel < chunks_left);
        }
      }
    }
  }

  // `rows` rows, a multiple of four, further than the address of a chunk in one of rows 0 to 3 of eight.
  static __device__ __forceinline__ std::uint32_t after_rows(std::uint32_t address, int rows) {
    const std::uint32_t swizzle = Config::kSwizzled ? rows % 8 * 16 : 0;
    return (address ^ swizzle) + rows * Config::kRowBytes;
  }

  __device__ __forceinline__ void load_query() {
    constexpr int kRows = Config::kItemRows / kWarps;
    static_assert(kRows % 8 == 0 && Config::kWarpTileRows % 8 == 0);
    const ByteRows& query = arguments_.query;
    copy_rows<kRows>(minference::cuda::shared_address(shared_.query) +
                         Config::chunk_offset(warp() * kRows + copy_row(), copy_chunk()),
                     query.data + item().head * query.head_stride, query.row_stride, item().end_row,
                     [&](int row) { return item().first_row + warp() * kRows + row; });
  }

  // Keys (slot 0) or values (slot 1) of the tile.
  __device__ __forceinline__ void load(int slot, std::int32_t row_stride) const {
    const int first_row = team_warp() * Config::kWarpTileRows;
    const std::uint32_t to = copy_ + slot * Config::kTileBytes;
    const int num_rows = arguments_.shape.kv_len;
    if (in_columns_) {
      const std::int32_t* column = shared_.column[team()] + first_row;
      copy_rows<Config::kWarpTileRows>(to, shared_.source[slot], row_stride, num_rows,
                                       [&](int row) { return column[row]; });
    } else {
      const int start = start_ + first_row;
      copy_rows<Config::kWarpTileRows>(to, shared_.source[slot], row_stride, num_rows,
                                       [&](int row) { return start + row; });
    }
  }

  // ---- The two products. mma gives lane l the rows l / 4 and l / 4 + 8, and columns 2 (l % 4) and the next.

  // Chunks 2 step and 2 step + 1 for the address of a lane's row and its chunk 0 or 1.
  static __device__ __forceinline__ std::uint32_t chunk_pair(std::uint32_t address, int step) {
    if constexpr (Config::kSwizzled) {
      return (address ^ static_cast<std::uint32_t>(32 * step % 128)) + 32 * step / 128 * 128;
    } else {
      return address + 32 * step;
    }
  }

  // scores = query * keys^T
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kRowTiles][kKeyOctets][4]) const {
    using namespace minference::cuda;
#pragma unroll
    for (int k = 0; k < Config::kDimSteps; ++k) {
      std::uint32_t query[Config::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < Config::kRowTiles; ++m)
        load_matrices(query[m], chunk_pair(query_, k) + m * kMmaRows * Config::kRowBytes);
#pragma unroll
      for (int n = 0; n < kKeyOctets; n += 2) {
        std::uint32_t keys[4];
        load_matrices(keys, chunk_pair(key_, k) + n * 8 * Config::kRowBytes);
#pragma unroll
        for (int m = 0; m < Config::kRowTiles; ++m) {
          mma_m16n8k16<typename Config::T>(scores[m][n], query[m], keys[0], keys[1]);
          mma_m16n8k16<typename Config::T>(scores[m][n + 1], query[m], keys[2], keys[3]);
        }
      }
    }
  }

  // output += weights * values
  __device__ __forceinline__ void multiply_values(const float (&weights)[Config::kRowTiles][kKeyOctets][4]) {
    using namespace minference::cuda;
    using T = typename Config::T;
#pragma unroll
    for (int k = 0; k < Config::kKeySteps; ++k) {
      std::uint32_t packed[Config::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = weights[m][2 * k + i / 2] + i % 2 * 2;
          packed[m][i] = pack<T>(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kDimOctets; n += 2) {
        std::uint32_t values[4];
        load_matrices_transposed(values, chunk_pair(value_, n / 2) + k * 16 * Config::kRowBytes);
#pragma unroll
        for (int m = 0; m < Config::kRowTiles; ++m) {
          mma_m16n8k16<T>(output_[m][n], packed[m], values[0], values[1]);
          mma_m16n8k16<T>(output_[m][n + 1], packed[m], values[2], values[3]);
        }
      }
    }
  }

  // ---- Masks and softmax

  __device__ __forceinline__ int position_of(int row) const {
    return item().position + row;
  }

  __device__ __forceinline__ int key_limit(int position) const {
    return cuda::key_limit(arguments_.shape.causal, position, arguments_.shape.kv_len);
  }

  __device__ __forceinline__ VisibleKeys visible_to(int row) const {
    const int position = position_of(row);
    return VisibleKeys::of(position, {item().local, item().sink}, key_limit(position), 0);
  }

  __device__ __forceinline__ bool sees_whole_tile() const {
    if (in_columns_) return false;
    const int position = position_of(warp_row());
    return sees_all(position, Config::kWarpRows, {item().local, item().sink}, key_limit(position), start_,
                    kTileKeys);
  }

  __device__ __forceinline__ void mask(float (&scores)[Config::kRowTiles][kKeyOctets][4]) const {
    if (sees_whole_tile()) return;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      const int row = warp_row() + m * kMmaRows + lane() / 4;
      const VisibleKeys visible[2] = {visible_to(row), visible_to(row + 8)};
#pragma unroll
      for (int n = 0; n < kKeyOctets; ++n) {
        const int at = 8 * n + 2 * (lane() % 4);
        int key[2] = {start_ + at, start_ + at + 1};
        if (in_columns_) {
          key[0] = shared_.column[team()][at];
          key[1] = shared_.column[team()][at + 1];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!visible[i / 2].holds(key[i % 2])) scores[m][n][i] = -INFINITY;
        }
      }
    }
  }

  // scores -> exponentials, relative to the highest score so far.
  __device__ __forceinline__ void weigh(float (&scores)[Config::kRowTiles][kKeyOctets][4]) {
    const float scale = arguments_.scale_log2;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float factor[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float highest = scores[m][0][2 * r];
#pragma unroll
        for (int n = 0; n < kKeyOctets; ++n)
          highest = fmaxf(highest, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
        RowSoftmax& row = softmax_[m][r];
        factor[r] = row.raise(quad_max(highest), scale);
        const float shift = row.shift(scale);
#pragma unroll
        for (int n = 0; n < kKeyOctets; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[m][n][2 * r + e];
            score = minference::cuda::exp2_approx(fmaf(score, scale, -shift));
            row.sum += score;
          }
        }
      }
      if (__any_sync(minference::cuda::kAllLanes, factor[0] != 1.0f || factor[1] != 1.0f)) {
        scale_output(m, factor);
      }
    }
  }

  __device__ __forceinline__ void scale_output(int m, const float (&factor)[2]) {
#pragma unroll
    for (int n = 0; n < kDimOctets; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) output_[m][n][i] *= factor[i / 2];
    }
  }

  // ---- The end of an item

  // Normalises, merges what the teams have, and stores.
  __device__ __forceinline__ void finish() {
    float lse[Config::kRowTiles][2];  // in units of log 2
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float inverse[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float sum = quad_sum(softmax_[m][r].sum);
        inverse[r] = sum > 0.0f ? 1.0f / sum : sum == 0.0f ? 0.0f : sum;  // a NaN stays one
        lse[m][r] = softmax_[m][r].shift(arguments_.scale_log2) + log2f(sum);
      }
      scale_output(m, inverse);
    }
    if constexpr (Config::kTeams == 2) {
      if (team() == 1) give(lse);
      __syncthreads();
      if (team() == 1) return;
      merge(lse);
    }
    store_lse(lse);
    store_output();
  }

  // Where the second team leaves this warp's rows, in the order of registers: its tiles are done with.
  __device__ __forceinline__ float* given_output() const {
    static_assert(2 * Config::kTileBytes >=
                  Config::kItemRows * Config::kHeadDim * static_cast<int>(sizeof(float)));
    return reinterpret_cast<float*>(shared_.tile[Config::kTeams - 1]) +
           team_warp() * Config::kWarpRows * Config::kHeadDim + lane();
  }
  __device__ __forceinline__ float& given_lse(int m, int r) const {
    return shared_.lse[warp_row() + m * kMmaRows + lane() / 4 + 8 * r];
  }

  __device__ __forceinline__ void give(const float (&lse)[Config::kRowTiles][2]) {
    team_barrier();  // the team has read its last values
    float* to = given_output();
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4 * kDimOctets; ++i) to[32 * (4 * kDimOctets * m + i)] = output_[m][i / 4][i % 4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (lane() % 4 == 0) given_lse(m, r) = lse[m][r];
      }
    }
  }

  __device__ __forceinline__ void merge(float (&lse)[Config::kRowTiles][2]) {
    using minference::cuda::exp2_approx;
    const float* from = given_output();
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float own[2], given[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float other = given_lse(m, r), higher = fmaxf(lse[m][r], other);
        const float reference = higher == -INFINITY ? 0.0f : higher;
        own[r] = exp2_approx(lse[m][r] - reference);
        given[r] = exp2_approx(other - reference);
        const float sum = own[r] + given[r], inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        own[r] *= inverse;
        given[r] *= inverse;
        lse[m][r] = reference + log2f(sum);
      }
#pragma unroll
      for (int i = 0; i < 4 * kDimOctets; ++i) {
        const int r = i % 4 / 2;
        float& x = output_[m][i / 4][i % 4];
        x = own[r] * x + given[r] * from[32 * (4 * kDimOctets * m + i)];
      }
    }
  }

  __device__ __forceinline__ void store_lse(const float (&lse)[Config::kRowTiles][2]) const {
    constexpr float kLn2 = 0.693147180559945f;
    const base::RowsView& out = arguments_.lse;
    if (out.data == nullptr || lane() % 4 != 0) return;
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = item().first_row + warp_row() + m * kMmaRows + lane() / 4 + 8 * r;
        if (row < item().end_row) out.at(item().head, row) = lse[m][r] * kLn2;
      }
    }
  }

  // Through this warp's rows of the queries, so that whole chunks go out.
  __device__ __forceinline__ void store_output() {
    using T = typename Config::T;
    __syncwarp();  // all lanes have read the queries
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kDimOctets; ++n) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = warp_row() + m * kMmaRows + lane() / 4 + 8 * r;
          *reinterpret_cast<std::uint32_t*>(shared_.query + Config::chunk_offset(row, n) + lane() % 4 * 4) =
              minference::cuda::pack<T>(output_[m][n][2 * r], output_[m][n][2 * r + 1]);
        }
      }
    }
    __syncwarp();
    const base::OutputHeads& out = arguments_.out;
    for (int i = lane(); i < Config::kWarpRows * Config::kChunks; i += 32) {
      const int row = warp_row() + i / Config::kChunks, chunk = i % Config::kChunks;
      const int out_row = item().first_row + row;
      if (out_row >= item().end_row || chunk * kChunkElements >= arguments_.head_dim) continue;
      const uint4 x = *reinterpret_cast<const uint4*>(shared_.query + Config::chunk_offset(row, chunk));
      auto* to = static_cast<std::uint16_t*>(out.data) + item().head * out.head_stride +
                 out_row * out.row_stride + chunk * kChunkElements;
      if (arguments_.out_aligned) {
        *reinterpret_cast<uint4*>(to) = x;
      } else {
        const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e)
          to[e] = static_cast<std::uint16_t>(words[e / 2] >> (16 * (e % 2)));
      }
    }
  }

  SharedMemory<Config>& shared_;
  const Arguments& arguments_;
  std::uint32_t query_, key_, value_;   // what this lane gives ldmatrix for step 0
  std::uint32_t copy_;                  // where this lane's first chunk of keys goes
  int tile_ = team() - Config::kTeams;  // of the item; behind the tiles, counts tiles of columns
  int start_ = 0;                       // the tile's first key
  bool in_columns_ = false;
  bool done_ = false;
  float output_[Config::kRowTiles][kDimOctets][4] = {};
  RowSoftmax softmax_[Config::kRowTiles][2];
};

template <class Config>
__device__ __forceinline__ ItemRows rows_of(const Arguments& arguments, int head, int number) {
  const std::int32_t q_len = arguments.shape.q_len;
  const sparse::DeviceIndex& index = arguments.index;
  if constexpr (Config::kDense) {
    const std::int32_t begin = number * Config::kItemRows;
    return {begin, begin, base::min(begin + Config::kItemRows, q_len), true};
  } else {
    return ItemRows::of(number, q_len, index.last_dense_rows == nullptr ? 0 : index.last_dense_rows[head]);
  }
}

template <class Config>
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<SharedMemory<Config>*>(memory);
  const sparse::DeviceIndex& index = arguments.index;
  const int place = static_cast<int>(blockIdx.x), head = arguments.schedule.head(place);
  if constexpr (Config::kHasDenseTwin) {
    const bool all = index.heads == nullptr || index.heads[head].form == sparse::IndexForm::all;
    if (all != Config::kDense) return;
  }
  const ItemRows rows = rows_of<Config>(arguments, head, arguments.schedule.number(place));
  if (rows.end <= rows.begin) return;
  if (threadIdx.x == 0) {
    shared.item =
        Item::of(arguments.shape, index, arguments.cover, cover_words(arguments.shape.kv_len), head, rows);
    const std::int64_t kv_head = head / arguments.schedule.group;
    shared.source[0] = arguments.key.data + kv_head * arguments.key.head_stride;
    shared.source[1] = arguments.value.data + kv_head * arguments.value.head_stride;
  }
  __syncthreads();
  Warp<Config>(shared, arguments).run();
}

}  // namespace minference::kernels::cuda::sm80
