#pragma once

// The estimation's inner loops, written once. Included only by the <isa>.cc files of this folder, each of
// which passes its words in a type of its own unnamed namespace, so that every instantiation stays inside its
// object file.
//
// Words must provide, for a vector type Float of kWidth f32 lanes (kWidth divides 64):
//   load, store (aligned or not), zero, broadcast(float), add, sub, mul, max, exp2 (0 for very negative
//   arguments), sum (of all lanes), shift_in(low, high): (low[last], high[0], ..., high[last - 1]) kTileKeys,
//   kTileVectors: the register tile of the score loop, kTileKeys dividing kBlockKeys Key: the element type
//   that the score loop reads; kDirect(dtype): whether the caller's keys are such elements, otherwise
//   convert(source, dtype, count, float*) makes them f32 steps(head_dim); dot(Float packed_query, const Key*
//   key, step, Float sum): sum + products of one step

#include <algorithm>
#include <cstring>

#include "kernels/estimate/cpu/steps.h"

namespace minference::kernels::estimate {
namespace {

template <class Words>
struct MainLoop {
  using Float = typename Words::Float;
  using Key = typename Words::Key;
  static constexpr int kWidth = Words::kWidth;
  static constexpr int kVectors = static_cast<int>(kEstimateRows) / kWidth;
  static constexpr int kLanes = static_cast<int>(kEstimateRows);

  // Worker scratch.
  struct Scratch {
    float* keys;    // [kBlockKeys, head_dim] converted keys
    float* scores;  // [kBlockKeys, 64]
    float* line;    // [kWidth - 1 + kBlockKeys]
  };

  static Scratch split(float* scratch, std::int64_t head_dim) {
    float* scores = scratch + kBlockKeys * head_dim;
    return {scratch, scores, scores + kBlockKeys * kLanes};
  }

  // Rows of up to kBlockKeys keys as the score loop reads them. Rows past the end repeat the last one.
  static void key_rows(const KeyChunk& chunk, std::int64_t begin, std::int64_t count, float* converted,
                       const Key* (&rows)[kBlockKeys]) {
    const std::int64_t element = chunk.dtype == base::DType::f32 ? 4 : 2;
    for (std::int64_t j = 0; j < count; ++j) {
      const void* source = static_cast<const char*>(chunk.key) + (begin + j) * chunk.row_stride * element;
      if (Words::is_direct(chunk.dtype)) {
        rows[j] = static_cast<const Key*>(source);
      } else {
        Words::convert(source, chunk.dtype, chunk.head_dim, converted + j * chunk.head_dim);
        rows[j] = reinterpret_cast<const Key*>(converted + j * chunk.head_dim);
      }
    }
    for (std::int64_t j = count; j < kBlockKeys; ++j) rows[j] = rows[count - 1];
  }

  // scores [kTileKeys, 64] of kTileKeys keys and the queries of one head.
  static void score_tile(const KeyChunk& chunk, const float* query, const Key* const* rows, float* scores) {
    constexpr int kKeys = Words::kTileKeys, kTileVectors = Words::kTileVectors;
    const std::int64_t steps = Words::steps(chunk.head_dim);
    const Float scale = Words::broadcast(chunk.scale);
    const Key* key[kKeys];
    for (int j = 0; j < kKeys; ++j) key[j] = rows[j];
    for (int lane = 0; lane < kLanes; lane += kTileVectors * kWidth) {
      Float sum[kKeys][kTileVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j)
#pragma GCC unroll 8
        for (int v = 0; v < kTileVectors; ++v) sum[j][v] = Words::zero();
      for (std::int64_t step = 0; step < steps; ++step) {
        Float q[kTileVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kTileVectors; ++v) q[v] = Words::load(query + step * kLanes + lane + v * kWidth);
#pragma GCC unroll 8
        for (int j = 0; j < kKeys; ++j) {
          const auto k = Words::key_at(key[j], step);
#pragma GCC unroll 8
          for (int v = 0; v < kTileVectors; ++v) sum[j][v] = Words::dot(q[v], k, sum[j][v]);
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j)
#pragma GCC unroll 8
        for (int v = 0; v < kTileVectors; ++v)
          Words::store(scores + j * kLanes + lane + v * kWidth, Words::mul(sum[j][v], scale));
    }
  }

  // scores [count, 64] of the block at `begin`, masked where the key lies right of the row's position.
  static void score_block(const KeyChunk& chunk, std::int64_t head, std::int64_t begin, std::int64_t count,
                          const Key* const (&rows)[kBlockKeys], float* scores) {
    const float* query = chunk.queries + head * chunk.query_stride;
    for (std::int64_t j = 0; j < count; j += Words::kTileKeys)
      score_tile(chunk, query, rows + j, scores + j * kLanes);
    const std::int64_t first_position = chunk.kv_len - kLanes;
    for (std::int64_t j = std::max<std::int64_t>(0, first_position + 1 - begin); j < count; ++j)
      for (std::int64_t lane = 0; lane < begin + j - first_position; ++lane)
        scores[j * kLanes + lane] = kMasked;
  }

  static void scan(const KeyChunk& chunk, const RowStatistics& out, float* scratch) {
    const Scratch local = split(scratch, chunk.head_dim);
    for (std::int64_t head = 0; head < chunk.num_heads; ++head)
      for (int lane = 0; lane < kLanes; ++lane) {
        out.row_max[head * out.stride + lane] = kMasked;
        out.row_sum[head * out.stride + lane] = 0;
      }
    const Key* rows[kBlockKeys];
    for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += kBlockKeys) {
      const std::int64_t count = std::min(kBlockKeys, chunk.end - begin);
      key_rows(chunk, begin, count, local.keys, rows);
      for (std::int64_t head = 0; head < chunk.num_heads; ++head) {
        score_block(chunk, head, begin, count, rows, local.scores);
        for (int v = 0; v < kVectors; ++v) {
          float* row_max = out.row_max + head * out.stride + v * kWidth;
          float* row_sum = out.row_sum + head * out.stride + v * kWidth;
          const float* scores = local.scores + v * kWidth;
          const Float old_max = Words::load(row_max);
          Float largest = old_max;
          for (std::int64_t j = 0; j < count; ++j)
            largest = Words::max(largest, Words::load(scores + j * kLanes));
          Float sum = Words::mul(Words::load(row_sum), Words::exp2(Words::sub(old_max, largest)));
          for (std::int64_t j = 0; j < count; ++j)
            sum = Words::add(sum, Words::exp2(Words::sub(Words::load(scores + j * kLanes), largest)));
          Words::store(row_max, largest);
          Words::store(row_sum, sum);
        }
      }
    }
  }

  static void accumulate(const KeyChunk& chunk, const ChunkSums& out, float* scratch) {
    const Scratch local = split(scratch, chunk.head_dim);
    for (std::int64_t head = 0; head < chunk.num_heads; ++head)
      std::fill_n(out.carry + head * out.carry_stride, kLanes, 0.0f);
    const Key* rows[kBlockKeys];
    for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += kBlockKeys) {
      const std::int64_t count = std::min(kBlockKeys, chunk.end - begin);
      key_rows(chunk, begin, count, local.keys, rows);
      for (std::int64_t head = 0; head < chunk.num_heads; ++head) {
        score_block(chunk, head, begin, count, rows, local.scores);
        const float* lse = out.lse + head * kLanes;
        float* carry = out.carry + head * out.carry_stride;
        float* column_sums = out.column_sums + head * out.head_stride + begin;
        // Before key k, lane i of `diagonal` is the unfinished sum of offset kv_len - 63 - k + i. The key
        // adds its column of A, one lane higher; lane 63, offset kv_len - 1 - k, is then complete.
        Float diagonal[kVectors];
        for (int v = 0; v < kVectors; ++v) diagonal[v] = Words::load(carry + v * kWidth);
        for (std::int64_t j = 0; j < count; ++j) {
          Float column = Words::zero();
#pragma GCC unroll 16
          for (int v = kVectors - 1; v >= 0; --v) {
            const float* scores = local.scores + j * kLanes + v * kWidth;
            const Float weight = Words::exp2(Words::sub(Words::load(scores), Words::load(lse + v * kWidth)));
            column = Words::add(column, weight);
            diagonal[v] =
                Words::add(Words::shift_in(v > 0 ? diagonal[v - 1] : Words::zero(), diagonal[v]), weight);
          }
          column_sums[j] = Words::sum(column);
          // Only the last lane is final; the lanes below it land where later keys write.
          Words::store(local.line + (count - 1 - j), diagonal[kVectors - 1]);
        }
        for (int v = 0; v < kVectors; ++v) Words::store(carry + v * kWidth, diagonal[v]);
        std::copy_n(local.line + kWidth - 1, count,
                    out.diagonal_sums + head * out.head_stride + chunk.kv_len - begin - count);
      }
    }
  }
};

}  // namespace
}  // namespace minference::kernels::estimate
