#pragma once

#include "kernels/estimate/cpu/avx512_words.h"
#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

// Scores by tile products: 16 keys as they lie in memory times 16 query rows, whose pairs of dimensions are
// packed as the right operand wants them. `Tiles` is cpu::AmxTiles, or its emulation in the test.
template <class Tiles>
struct AmxWords : Avx512Words {
  using Key = base::bfloat16;
  static constexpr base::DType kDirect = base::DType::bf16;
  static constexpr bool kAhead = true;
  static constexpr std::int64_t kBlockKeys = 32;
  static constexpr int kTileKeys = 16;

  static void score_tile(const KeyChunk& chunk, const float* query, const Key* const* rows, float* scores) {
    alignas(64) Key copies[kTileKeys * kAmxMaxHeadDim];
    const Key* key = rows[0];
    std::int64_t key_bytes = chunk.row_stride * 2;
    if (rows[kTileKeys - 1] != rows[0] + (kTileKeys - 1) * chunk.row_stride) {
      // The last keys: a tile would reach beyond them.
      for (int j = 0; j < kTileKeys; ++j)
        std::memcpy(copies + j * chunk.head_dim, rows[j], static_cast<std::size_t>(chunk.head_dim) * 2);
      key = copies;
      key_bytes = chunk.head_dim * 2;
    }
    constexpr std::int64_t kRowBytes = kEstimateRows * 4, kStepWords = 16 * kEstimateRows;
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
    for (std::int64_t dim = 0; dim < chunk.head_dim; dim += kAmxDims, query += kStepWords) {
      Tiles::template load<4>(key + dim, key_bytes);
      Tiles::template load<5>(query, kRowBytes);
      Tiles::template multiply_add<0, 4, 5>();
      Tiles::template load<6>(query + 16, kRowBytes);
      Tiles::template multiply_add<1, 4, 6>();
      Tiles::template load<7>(query + 32, kRowBytes);
      Tiles::template multiply_add<2, 4, 7>();
      Tiles::template load<5>(query + 48, kRowBytes);
      Tiles::template multiply_add<3, 4, 5>();
    }
    Tiles::template store<0>(scores, kRowBytes);
    Tiles::template store<1>(scores + 16, kRowBytes);
    Tiles::template store<2>(scores + 32, kRowBytes);
    Tiles::template store<3>(scores + 48, kRowBytes);
  }
};

template <class Tiles>
struct AmxLoop {
  using Loop = MainLoop<AmxWords<Tiles>>;

  static void scan(const KeyChunk& chunk, const RowStatistics& out, float* scratch) {
    Tiles::configure();
    Loop::scan(chunk, out, scratch);
    Tiles::release();
  }
  static void accumulate(const KeyChunk& chunk, const ChunkSums& out, float* scratch) {
    Tiles::configure();
    Loop::accumulate(chunk, out, scratch);
    Tiles::release();
  }

  static constexpr Steps steps() { return {Loop::kBlockKeys, true, scan, accumulate}; }
};

}  // namespace
}  // namespace minference::kernels::estimate
