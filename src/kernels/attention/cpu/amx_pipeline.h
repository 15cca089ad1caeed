#pragma once

#include <immintrin.h>

#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_pack.h"
#include "kernels/attention/cpu/amx_softmax.h"

// The main loop. `Tiles` is cpu::AmxTiles, or its emulation in the test.
//
// Tile instructions and vector instructions run in different units of the core, so three stages are
// interleaved, each working on something else: the scores of unit u, the softmax of unit u - 1, and the
// output of the chunk before. This runs on across row groups.
namespace minference::kernels::amx {
namespace {

template <class Tiles>
class Stage {
 public:
  static void begin(Pipeline& pipeline) {
    Tiles::configure();
    for (Chunk& chunk : pipeline.chunks) chunk.num_units = 0;
    pipeline.next = 0;
    pipeline.score_slot = pipeline.probability_slot = 0;
    pipeline.pending = pipeline.discarded;
  }

  static void end(Pipeline&) {
    Tiles::release();
    _mm_sfence();  // finish_rows() streams
  }

  static void push(Pipeline& pipeline) {
    Chunk& current = pipeline.chunks[pipeline.next];
    const Chunk& previous = pipeline.chunks[(pipeline.next + 2) % 3];
    const Chunk& oldest = pipeline.chunks[(pipeline.next + 1) % 3];
    pipeline.next = (pipeline.next + 1) % 3;
    pipeline.probability_slot ^= 1;
    current.probability_slot = pipeline.probability_slot;

    // A full chunk's last unit goes through softmax in the first step of the next push, so that its output
    // takes the three other steps of that push and the first one of the push after.
    step(pipeline, current, 0, previous, kChunkUnits - 1, oldest, kChunkUnits - 1);
    if (oldest.num_units > 0 && oldest.last) {
      store_accumulators(pipeline);
      finish_rows(pipeline, *oldest.rows);
    }
    for (int i = 1; i < kChunkUnits; ++i) step(pipeline, current, i, current, i - 1, previous, i - 1);
  }

  static void raise_reference(Pipeline& pipeline, RowGroup& rows, const Unit& unit,
                              const std::int32_t* positions) {
    NoRows none;
    multiply_keys(pipeline, rows, unit, pipeline.scores[0], none, false);
    store_accumulators(pipeline);
    const RowMask mask(rows, positions);
    for (int i = 0; i < kGroupRows; ++i) {
      const float score = largest_score(pipeline, pipeline.scores[0], i, unit.masked ? &mask : nullptr);
      float* reference = rows.reference + i * 16;
      _mm512_store_ps(reference, _mm512_set1_ps(std::max(*reference, score)));
    }
  }

 private:
  // A quarter of a push: the scores of one unit, the softmax of another, a quarter of a chunk's output.
  static void step(Pipeline& pipeline, const Chunk& scored, int scored_unit, const Chunk& softened,
                   int softened_unit, const Chunk& summed, int quarter) {
    const int dim_steps = static_cast<int>(pipeline.padded_dim / kDimStep);
    const Work work = {scored_unit < scored.num_units ? &scored : nullptr, scored_unit, &summed,
                       summed.num_units > 0 ? dim_steps * quarter / kChunkUnits : 0,
                       summed.num_units > 0 ? dim_steps * (quarter + 1) / kChunkUnits : 0};
    if (softened_unit >= softened.num_units) return multiply(pipeline, work, NoRows(), false);

    const float* scores = pipeline.scores[pipeline.score_slot];
    if (softened.first && softened_unit == 0) start_rows(pipeline, *softened.rows, scores);
    const bool ready = pipeline.pending != scores;
    const int num_products =
        (work.scored ? dim_steps : 0) + (work.last_dim - work.first_dim) * summed.num_units;
    const int num_places = 4 * (num_products - (ready ? 0 : 1));
    if (softened.units[softened_unit].masked) {
      multiply(pipeline, work, SoftmaxRows<true>(pipeline, softened, softened_unit, scores, num_places),
               ready);
    } else {
      multiply(pipeline, work, SoftmaxRows<false>(pipeline, softened, softened_unit, scores, num_places),
               ready);
    }
  }

  static void start_rows(Pipeline& pipeline, RowGroup& rows, const float* scores) {
    store_accumulators(pipeline);
    for (int i = 0; i < kGroupRows; ++i) {
      if (!rows.has_reference) {
        _mm512_store_ps(rows.reference + i * 16, _mm512_set1_ps(largest_score(pipeline, scores, i, nullptr)));
      }
      _mm512_store_ps(rows.exp_sums + i * 16, _mm512_setzero_ps());
    }
  }

  // The tile products of a step.
  struct Work {
    const Chunk* scored;  // or null
    int scored_unit;
    const Chunk* summed;
    int first_dim, last_dim;  // in steps of 32
  };

  // `ready`: the scores that `rows` reads have left the accumulators already; otherwise the first product
  // stores them.
  template <class Rows>
  static void multiply(Pipeline& pipeline, const Work& work, Rows rows, bool ready) {
    if (work.scored) {
      pipeline.score_slot ^= 1;
      multiply_keys(pipeline, *work.scored->rows, work.scored->units[work.scored_unit],
                    pipeline.scores[pipeline.score_slot], rows, ready);
      ready = true;
    }
    for (int dim = work.first_dim; dim < work.last_dim; ++dim) {
      multiply_values(pipeline, *work.summed, dim, rows, ready);
      ready = true;
    }
    if (!ready) store_accumulators(pipeline);
    rows.finish();
  }

  // scores = query x key, 32 rows by 32 keys.
  template <class Rows>
  [[gnu::always_inline]] static void multiply_keys(Pipeline& pipeline, const RowGroup& group,
                                                   const Unit& unit, float* scores, Rows& rows, bool ready) {
    const auto* query = reinterpret_cast<const std::byte*>(group.query);
    const std::int64_t half = key_block_bytes(pipeline.padded_dim);
    const std::byte* key = unit.key;
    const std::byte* const end = key + half;
    k_step<true, 64>(pipeline.pending, query, key, key + half, scores, true, rows, ready);
    for (key += kTileBytes, query += 2 * kTileBytes; key != end; key += kTileBytes, query += 2 * kTileBytes) {
      k_step<false, 64>(nullptr, query, key, key + half, nullptr, true, rows, true);
    }
    pipeline.pending = scores;
  }

  // out_sums[32 dimensions] += probabilities x value, over the units of a chunk.
  template <class Rows>
  [[gnu::always_inline]] static void multiply_values(Pipeline& pipeline, const Chunk& chunk, int dim,
                                                     Rows& rows, bool ready) {
    const auto* probabilities =
        reinterpret_cast<const std::byte*>(pipeline.probabilities[chunk.probability_slot]);
    float* sums = chunk.rows->out_sums + dim * kBlockFloats;
    const auto value = [&](int k) { return chunk.units[k].value + dim * chunk.units[k].value_plane_bytes; };
    k_step<true, kValueRowBytes>(pipeline.pending, probabilities, value(0), value(0) + 64, sums, chunk.first,
                                 rows, ready);
    for (int k = 1; k < chunk.num_units; ++k) {
      k_step<false, kValueRowBytes>(nullptr, probabilities + k * 2 * kTileBytes, value(k), value(k) + 64,
                                    nullptr, false, rows, true);
    }
    pipeline.pending = sums;
  }

  static constexpr std::int64_t kTileBytes = 1024;
  static constexpr std::int64_t kBlockRowBytes = 128;  // of accumulators in memory

  // The accumulators, tiles 0 to 3, += a[32 x 32] b[32 x 32]; left and right half of b. The first step of a
  // product stores each accumulator to `pending` and gives it its start, zero or `sums`, just before it needs
  // it: a burst of tile stores would block the core's scheduler.
  template <bool first, std::int64_t b_stride, class Rows>
  [[gnu::always_inline]] static void k_step(float* pending, const std::byte* a, const std::byte* left,
                                            const std::byte* right, const float* sums, bool zero, Rows& rows,
                                            bool advance) {
    Tiles::template load<4>(a, 64);
    Tiles::template load_streamed<6>(left, b_stride);
    if constexpr (first) exchange<0>(pending, sums, zero);
    Tiles::template multiply_add<0, 4, 6>();
    if (advance) rows.advance();
    Tiles::template load_streamed<7>(right, b_stride);
    if constexpr (first) exchange<1>(pending, sums, zero);
    Tiles::template multiply_add<1, 4, 7>();
    if (advance) rows.advance();
    Tiles::template load<5>(a + kTileBytes, 64);
    if constexpr (first) exchange<2>(pending, sums, zero);
    Tiles::template multiply_add<2, 5, 6>();
    if (advance) rows.advance();
    if constexpr (first) exchange<3>(pending, sums, zero);
    Tiles::template multiply_add<3, 5, 7>();
    if (advance) rows.advance();
  }

  template <int tile>
  [[gnu::always_inline]] static void exchange(float* pending, const float* sums, bool zero) {
    store<tile>(pending);
    if (zero) {
      Tiles::template zero<tile>();
    } else {
      Tiles::template load<tile>(sums + kTileOffset<tile>, kBlockRowBytes);
    }
  }

  template <int tile>
  [[gnu::always_inline]] static void store(float* block) {
    Tiles::template store<tile>(block + kTileOffset<tile>, kBlockRowBytes);
  }
  template <int tile>
  static constexpr int kTileOffset = tile / 2 * kBlockFloats / 2 + tile % 2 * 16;

  static void store_accumulators(Pipeline& pipeline) {
    store<0>(pipeline.pending);
    store<1>(pipeline.pending);
    store<2>(pipeline.pending);
    store<3>(pipeline.pending);
    pipeline.pending = pipeline.discarded;
  }
};

template <class Tiles>
constexpr Stages make_stages() {
  return {pack_keys,
          align_keys,
          pack_values,
          Stage<Tiles>::begin,
          Stage<Tiles>::end,
          Stage<Tiles>::push,
          Stage<Tiles>::raise_reference};
}

}  // namespace
}  // namespace minference::kernels::amx
