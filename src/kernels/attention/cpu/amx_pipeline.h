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
    pipeline.pending = {pipeline.discarded, kUnitKeys * 4};
  }

  static void end(Pipeline&) { Tiles::release(); }

  static void push(Pipeline& pipeline) {
    Chunk& current = pipeline.chunks[pipeline.next];
    const Chunk& previous = pipeline.chunks[(pipeline.next + 2) % 3];
    const Chunk& oldest = pipeline.chunks[(pipeline.next + 1) % 3];
    pipeline.next = (pipeline.next + 1) % 3;
    pipeline.probability_slot ^= 1;
    current.probability_slot = pipeline.probability_slot;

    // A full chunk's last unit goes through softmax in the first step of the next push, so that its output
    // takes the three other steps of that push and the first one of the push after.
    step(pipeline, current, 0, previous, kChunkUnits - 1, oldest, 3);
    if (oldest.num_units > 0 && oldest.last) {
      store_accumulators(pipeline);
      finish_rows(pipeline, *oldest.rows);
    }
    for (int i = 1; i < kChunkUnits; ++i) step(pipeline, current, i, current, i - 1, previous, i - 1);
  }

  static void raise_reference(Pipeline& pipeline, RowGroup& rows, const Unit& unit,
                              const std::int32_t* positions) {
    const Block scores = {pipeline.scores[0], kUnitKeys * 4};
    NoRows none;
    multiply_keys(pipeline, rows, unit, scores, none, 0);
    store_accumulators(pipeline);
    const RowMask mask(rows, positions);
    for (int i = 0; i < kGroupRows; ++i) {
      rows.reference[i] =
          std::max(rows.reference[i], largest_score(pipeline, scores.data, i, unit.masked ? &mask : nullptr));
    }
  }

 private:
  // A quarter of a push: scores of one unit, softmax of another, a quarter of a chunk's output.
  static void step(Pipeline& pipeline, const Chunk& scored, int scored_unit, const Chunk& softened,
                   int softened_unit, const Chunk& summed, int quarter) {
    const Chunk* scored_if_any = scored_unit < scored.num_units ? &scored : nullptr;
    if (softened_unit >= softened.num_units) {
      NoRows none;
      multiply(pipeline, scored_if_any, scored_unit, summed, quarter, none);
      return;
    }
    const float* scores = pipeline.scores[pipeline.score_slot];
    if (softened.first && softened_unit == 0) start_rows(pipeline, *softened.rows, scores);
    if (softened.units[softened_unit].masked) {
      SoftmaxRows<true> rows(pipeline, softened, softened_unit, scores);
      multiply(pipeline, scored_if_any, scored_unit, summed, quarter, rows);
    } else {
      SoftmaxRows<false> rows(pipeline, softened, softened_unit, scores);
      multiply(pipeline, scored_if_any, scored_unit, summed, quarter, rows);
    }
  }

  static void start_rows(Pipeline& pipeline, RowGroup& rows, const float* scores) {
    store_accumulators(pipeline);
    for (int i = 0; i < kGroupRows; ++i) {
      if (!rows.has_reference) rows.reference[i] = largest_score(pipeline, scores, i, nullptr);
      _mm512_store_ps(rows.exp_sums + i * 16, _mm512_setzero_ps());
    }
  }

  template <class Rows>
  static void multiply(Pipeline& pipeline, const Chunk* scored, int scored_unit, const Chunk& summed,
                       int quarter, Rows rows) {
    const int dim_steps = static_cast<int>(pipeline.padded_dim / kDimStep);
    const int first_dim = summed.num_units > 0 ? dim_steps * quarter / 4 : 0;
    const int last_dim = summed.num_units > 0 ? dim_steps * (quarter + 1) / 4 : 0;

    // Four places for rows behind every k-step but a product's first.
    const int places =
        4 * ((scored ? dim_steps - 1 : 0) + (last_dim - first_dim) * std::max(summed.num_units - 1, 0));
    const int rows_a_place = places == 0 ? kGroupRows : (kGroupRows + places - 1) / places;

    if (scored) {
      pipeline.score_slot ^= 1;
      const Block scores = {pipeline.scores[pipeline.score_slot], kUnitKeys * 4};
      multiply_keys(pipeline, *scored->rows, scored->units[scored_unit], scores, rows, rows_a_place);
    }
    for (int dim = first_dim; dim < last_dim; ++dim)
      multiply_values(pipeline, summed, dim, rows, rows_a_place);
    if (!scored && first_dim == last_dim) store_accumulators(pipeline);
    rows.advance(kGroupRows);
  }

  // scores = query x key, 32 rows by 32 keys.
  template <class Rows>
  [[gnu::always_inline]] static void multiply_keys(Pipeline& pipeline, const RowGroup& group,
                                                   const Unit& unit, const Block& scores, Rows& rows,
                                                   int rows_a_place) {
    const auto* query = reinterpret_cast<const std::byte*>(group.query);
    const std::int64_t query_stride = pipeline.padded_dim * 2;
    const int steps = static_cast<int>(pipeline.padded_dim / kDimStep);
    k_step<true>(pipeline, query, query_stride, unit.key, kKeyRowBytes, scores, true, rows, 0);
    for (int k = 1; k < steps; ++k) {
      k_step<false>(pipeline, query + 64 * k, query_stride, unit.key + 16 * kKeyRowBytes * k, kKeyRowBytes,
                    scores, true, rows, rows_a_place);
    }
    pipeline.pending = scores;
  }

  // out_sums[32 dimensions] += probabilities x value, over the units of a chunk.
  template <class Rows>
  [[gnu::always_inline]] static void multiply_values(Pipeline& pipeline, const Chunk& chunk, int dim,
                                                     Rows& rows, int rows_a_place) {
    const auto* probabilities =
        reinterpret_cast<const std::byte*>(pipeline.probabilities[chunk.probability_slot]);
    constexpr std::int64_t kProbabilityStride = kChunkUnits * kUnitKeys * 2;
    const std::int64_t value_stride = value_row_bytes(pipeline.padded_dim);
    const std::int64_t value_offset = dim * kDimStep * 4;
    const Block sums = {chunk.rows->out_sums + dim * kDimStep, pipeline.padded_dim * 4};
    k_step<true>(pipeline, probabilities, kProbabilityStride, chunk.units[0].value + value_offset,
                 value_stride, sums, chunk.first, rows, 0);
    for (int k = 1; k < chunk.num_units; ++k) {
      k_step<false>(pipeline, probabilities + 64 * k, kProbabilityStride, chunk.units[k].value + value_offset,
                    value_stride, sums, chunk.first, rows, rows_a_place);
    }
    pipeline.pending = sums;
  }

  // 32 x 32 accumulators (tiles 0 to 3) += a[32 x 32] b[32 x 32]. The first step of a product stores each
  // accumulator of the product before and loads its own just before it needs it: a burst of tile stores would
  // block the core's scheduler.
  template <bool first, class Rows>
  [[gnu::always_inline]] static void k_step(const Pipeline& pipeline, const std::byte* a,
                                            std::int64_t a_stride, const std::byte* b, std::int64_t b_stride,
                                            const Block& sums, bool zero, Rows& rows, int rows_a_place) {
    Tiles::template load<4>(a, a_stride);
    Tiles::template load_streamed<6>(b, b_stride);
    if constexpr (first) exchange<0>(pipeline.pending, sums, zero);
    Tiles::template multiply_add<0, 4, 6>();
    if constexpr (!first) rows.advance(rows_a_place);
    Tiles::template load_streamed<7>(b + 64, b_stride);
    if constexpr (first) exchange<1>(pipeline.pending, sums, zero);
    Tiles::template multiply_add<1, 4, 7>();
    if constexpr (!first) rows.advance(rows_a_place);
    Tiles::template load<5>(a + 16 * a_stride, a_stride);
    if constexpr (first) exchange<2>(pipeline.pending, sums, zero);
    Tiles::template multiply_add<2, 5, 6>();
    if constexpr (!first) rows.advance(rows_a_place);
    if constexpr (first) exchange<3>(pipeline.pending, sums, zero);
    Tiles::template multiply_add<3, 5, 7>();
    if constexpr (!first) rows.advance(rows_a_place);
  }

  template <int tile>
  [[gnu::always_inline]] static void exchange(const Block& pending, const Block& sums, bool zero) {
    Tiles::template store<tile>(pending.tile(tile), pending.stride);
    if (zero) {
      Tiles::template zero<tile>();
    } else {
      Tiles::template load<tile>(sums.tile(tile), sums.stride);
    }
  }

  static void store_accumulators(Pipeline& pipeline) {
    const Block& pending = pipeline.pending;
    Tiles::template store<0>(pending.tile(0), pending.stride);
    Tiles::template store<1>(pending.tile(1), pending.stride);
    Tiles::template store<2>(pending.tile(2), pending.stride);
    Tiles::template store<3>(pending.tile(3), pending.stride);
    pipeline.pending = {pipeline.discarded, kUnitKeys * 4};
  }
};

template <class Tiles>
constexpr Stages make_stages() {
  return {pack_keys,         pack_values,        Stage<Tiles>::begin,
          Stage<Tiles>::end, Stage<Tiles>::push, Stage<Tiles>::raise_reference};
}

}  // namespace
}  // namespace minference::kernels::amx
