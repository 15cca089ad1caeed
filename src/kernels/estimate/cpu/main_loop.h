#pragma once

// The estimation's inner loops, written once. Included only by the <isa>.cc files of this folder, each of
// which passes its words in a type of its own unnamed namespace, so that every instantiation stays inside its
// object file.
//
// Words is a Simd of src/cpu and, added to it:
//   sum(x): of all lanes; shift_in(low, high): (low[15], high[0], ..., high[14])
//   kAhead: whether a block's scores are computed before the block before is used, for units of the core of their own;
//   kBlockKeys: Steps::block_keys; kTileKeys, kTileVectors: the register tile of the score loop, divisors of
//   kBlockKeys and 4
//   Key: the element that the score loop reads; kDirect: the dtype of keys that it reads in place, those of
//   another dtype are converted first; kDimsPerStep: dimensions multiplied at once, a divisor of 8
//   key_at(key, step): a step's elements in every lane; dot(query, key, sum): sum + one step's products
// or, in place of the last line, a score_tile() of its own.

#include <cstring>

#include "kernels/estimate/cpu/steps.h"

namespace minference::kernels::estimate {
namespace {

template <class Words>
struct MainLoop {
  using Float = typename Words::F32x16;
  using Key = typename Words::Key;
  static constexpr std::int64_t kWidth = 16;
  static constexpr std::int64_t kLanes = kEstimateRows;
  static constexpr std::int64_t kBlockKeys = Words::kBlockKeys;
  static constexpr int kVectors = kLanes / kWidth;

  struct Scratch {
    float* scores;     // [kBlockKeys, 64], kAhead: two of them
    float* line;       // [kWidth - 1 + kBlockKeys]
    float* converted;  // [kBlockKeys, head_dim] keys
  };

  static constexpr Steps steps(bool bf16_pairs) { return {kBlockKeys, bf16_pairs, scan, accumulate}; }

  static Scratch split(float* scratch) {
    float* line = scratch + (1 + Words::kAhead) * kBlockKeys * kLanes;
    return {scratch, line, line + line_floats(kBlockKeys)};
  }

  // Points at up to kBlockKeys keys as the score loop reads them. Rows past the end repeat the last one.
  static void key_rows(const KeyChunk& chunk, std::int64_t begin, std::int64_t count, float* converted,
                       const Key* (&rows)[kBlockKeys]) {
    const std::int64_t element = chunk.dtype == base::DType::f32 ? 4 : 2;
    for (std::int64_t j = 0; j < kBlockKeys; ++j) {
      if (j >= count) {
        rows[j] = rows[count - 1];
        continue;
      }
      const char* source = static_cast<const char*>(chunk.key) + (begin + j) * chunk.row_stride * element;
      if (chunk.dtype == Words::kDirect) {
        rows[j] = reinterpret_cast<const Key*>(source);
      } else {
        float* row = converted + j * chunk.head_dim;
        for (std::int64_t d = 0; d < chunk.head_dim; d += kWidth) {
          const int values = static_cast<int>(chunk.head_dim - d < kWidth ? chunk.head_dim - d : kWidth);
          Words::store_as(base::DType::f32, row + d,
                          Words::load_as(chunk.dtype, source + d * element, values), values);
        }
        rows[j] = reinterpret_cast<const Key*>(row);
      }
    }
  }

  // scores [kTileKeys, 64] of kTileKeys keys and the queries of one head.
  static void score_tile(const KeyChunk& chunk, const float* query, const Key* const* rows, float* scores) {
    if constexpr (requires { Words::score_tile(chunk, query, rows, scores); }) {
      Words::score_tile(chunk, query, rows, scores);
    } else {
      score_tile_by_steps(chunk, query, rows, scores);
    }
  }

  static void score_tile_by_steps(const KeyChunk& chunk, const float* query, const Key* const* rows,
                                  float* scores) {
    constexpr int kKeys = Words::kTileKeys, kTileVectors = Words::kTileVectors;
    const std::int64_t steps = chunk.head_dim / Words::kDimsPerStep;
    const Key* key[kKeys];
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) key[j] = rows[j];
    for (std::int64_t lane = 0; lane < kLanes; lane += kTileVectors * kWidth) {
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
          Words::store(scores + j * kLanes + lane + v * kWidth, sum[j][v]);
    }
  }

  // scores [count, 64] of the block at `begin`, not yet scaled, masked where the key lies right of the row's position.
  static void score_block(const KeyChunk& chunk, std::int64_t head, std::int64_t begin, std::int64_t count,
                          const Key* const (&rows)[kBlockKeys], float* scores) {
    const float* query = chunk.queries + head * chunk.query_stride;
    for (std::int64_t j = 0; j < count; j += Words::kTileKeys)
      score_tile(chunk, query, rows + j, scores + j * kLanes);
    // Times the scale, -inf: 2 to its power is 0.
    const float masked = chunk.scale < 0 ? __builtin_inff() : -__builtin_inff();
    for (std::int64_t j = 0; j < count; ++j) {
      const std::int64_t rows_before_key = begin + j - (chunk.kv_len - kLanes);
      for (std::int64_t lane = 0; lane < rows_before_key; ++lane) scores[j * kLanes + lane] = masked;
    }
  }

  struct Block {
    std::int64_t head, begin, count;
    const float* scores;
  };

  // use(block) for every block of the chunk and every head.
  template <class Use>
  static void for_each_block(const KeyChunk& chunk, const Scratch& local, Use use) {
    const Key* rows[kBlockKeys];
    Block before{.count = 0};
    float* scores = local.scores;
    for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += kBlockKeys) {
      const std::int64_t count = chunk.end - begin < kBlockKeys ? chunk.end - begin : kBlockKeys;
      key_rows(chunk, begin, count, local.converted, rows);
      for (std::int64_t head = 0; head < chunk.num_heads; ++head) {
        score_block(chunk, head, begin, count, rows, scores);
        const Block block{head, begin, count, scores};
        if constexpr (Words::kAhead) {
          if (before.count > 0) use(before);
          before = block;
          scores = scores == local.scores ? local.scores + kBlockKeys * kLanes : local.scores;
        } else {
          use(block);
        }
      }
    }
    if (before.count > 0) use(before);
  }

  static void scan(const KeyChunk& chunk, const RowStatistics& out, float* scratch) {
    const Scratch local = split(scratch);
    for (std::int64_t head = 0; head < chunk.num_heads; ++head)
      for (std::int64_t lane = 0; lane < kLanes; lane += kWidth) {
        Words::store(out.row_max + head * out.stride + lane, Words::broadcast(kMasked));
        Words::store(out.row_sum + head * out.stride + lane, Words::zero());
      }
    for_each_block(chunk, local, [&](const Block& block) {
      for (std::int64_t lane = 0; lane < kLanes; lane += Words::kTileVectors * kWidth)
        add_to_statistics(block.scores + lane, block.count, chunk.scale,
                          out.row_max + block.head * out.stride + lane,
                          out.row_sum + block.head * out.stride + lane);
    });
  }

  static void add_to_statistics(const float* scores, std::int64_t count, float score_scale, float* row_max,
                                float* row_sum) {
    const Float scale = Words::broadcast(score_scale);
    // Chains of additions that hide each other's latency.
    constexpr int kChains = Words::kTileVectors;
    Float largest[kChains], sum[kChains];
#pragma GCC unroll 4
    for (int v = 0; v < kChains; ++v) largest[v] = Words::load(row_max + v * kWidth);
    for (std::int64_t j = 0; j < count; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v)
        largest[v] =
            Words::maximum(largest[v], Words::multiply(Words::load(scores + j * kLanes + v * kWidth), scale));
#pragma GCC unroll 4
    for (int v = 0; v < kChains; ++v) {
      const Float before = exp2(Words::subtract(Words::load(row_max + v * kWidth), largest[v]));
      sum[v] = Words::multiply(Words::load(row_sum + v * kWidth), before);
    }
    for (std::int64_t j = 0; j < count; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < kChains; ++v) {
        const Float score = Words::load(scores + j * kLanes + v * kWidth);
        sum[v] = Words::add(sum[v], exp2(Words::multiply_subtract(score, scale, largest[v])));
      }
#pragma GCC unroll 4
    for (int v = 0; v < kChains; ++v) {
      Words::store(row_max + v * kWidth, largest[v]);
      Words::store(row_sum + v * kWidth, sum[v]);
    }
  }

  static void accumulate(const KeyChunk& chunk, const ChunkSums& out, float* scratch) {
    const Scratch local = split(scratch);
    for (std::int64_t head = 0; head < chunk.num_heads; ++head)
      for (std::int64_t lane = 0; lane < kLanes; lane += kWidth)
        Words::store(out.carry + head * out.carry_stride + lane, Words::zero());
    for_each_block(chunk, local, [&](const Block& block) {
      const std::int64_t row = block.head * out.head_stride;
      add_up(block, chunk.scale, local.line, out.lse + block.head * kLanes,
             out.column_sums + row + block.begin,
             out.diagonal_sums + row + chunk.kv_len - block.begin - block.count,
             out.carry + block.head * out.carry_stride);
    });
  }

  // Adds A, the probabilities of a block's `count` keys, along its columns and diagonals: column_sums [count] by key,
  // diagonal_sums [count] by offset, that is with the last key first.
  //
  // Before key k, lane i of `diagonal` holds the unfinished sum of offset kv_len - 63 - k + i. The key's
  // column of A belongs one lane higher; once added, lane 63, offset kv_len - 1 - k, is complete.
  static void add_up(const Block& block, float score_scale, float* line, const float* lse, float* column_sums,
                     float* diagonal_sums, float* carry) {
    const std::int64_t count = block.count;
    const Float scale = Words::broadcast(score_scale);
    Float diagonal[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) diagonal[v] = Words::load(carry + v * kWidth);
    for (std::int64_t j = 0; j < count; ++j) {
      Float column = Words::zero();
#pragma GCC unroll 4
      for (int v = kVectors - 1; v >= 0; --v) {
        const Float score = Words::load(block.scores + j * kLanes + v * kWidth);
        const Float weight = exp2(Words::multiply_subtract(score, scale, Words::load(lse + v * kWidth)));
        column = Words::add(column, weight);
        diagonal[v] =
            Words::add(Words::shift_in(v > 0 ? diagonal[v - 1] : Words::zero(), diagonal[v]), weight);
      }
      column_sums[j] = Words::sum(column);
      // Only lane 15 is final; the lanes below it land where later keys write.
      Words::store_as(base::DType::f32, line + (count - 1 - j), diagonal[kVectors - 1], kWidth);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Words::store(carry + v * kWidth, diagonal[v]);
    std::memcpy(diagonal_sums, line + kWidth - 1, static_cast<std::size_t>(count) * sizeof(float));
  }

  static Float exp2(Float x) {
    return Words::template exp2<5>(x);
  }
};

}  // namespace
}  // namespace minference::kernels::estimate
