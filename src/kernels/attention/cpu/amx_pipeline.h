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
    const Step steps[kChunkUnits] = {step(pipeline, current, 0, previous, kChunkUnits - 1, oldest),
                                     step(pipeline, current, 1, current, 0, previous),
                                     step(pipeline, current, 2, current, 1, previous),
                                     step(pipeline, current, 3, current, 2, previous)};
    const bool finishes = oldest.num_units > 0 && oldest.last;
    const bool starts = current.num_units > 0 && current.first;
    const int first_steps = finishes || starts ? 1 : 0;
    run(pipeline, steps, steps + first_steps);
    if (finishes || starts) store_accumulators(pipeline);
    if (finishes) finish_rows(pipeline, *oldest.rows);
    if (starts) start_rows(pipeline, *current.rows, pipeline.scores[pipeline.score_slot]);
    run(pipeline, steps + first_steps, steps + kChunkUnits);
  }

  static void raise_reference(Pipeline& pipeline, RowGroup& rows, const Unit& unit,
                              const std::uint32_t* masks) {
    NoPairs none;
    multiply_keys(pipeline, rows, unit, pipeline.scores[0], none, false);
    store_accumulators(pipeline);
    raise_to_scores(pipeline, pipeline.scores[0], unit.masked ? masks : nullptr, rows.reference);
  }

 private:
  // A quarter of a push: the scores of one unit, the softmax of another, a quarter of a chunk's output.
  struct Step {
    const Chunk* scored;  // or null
    const Chunk* softened;
    const Chunk* summed;
    int scored_unit, softened_unit;
    int first_dim, last_dim;  // in steps of 32
    bool masked;
    int visits_a_place;  // 0: nothing is softened
  };

  static Step step(const Pipeline& pipeline, const Chunk& scored, int scored_unit, const Chunk& softened,
                   int softened_unit, const Chunk& summed) {
    Step step{};
    const int dim_steps = static_cast<int>(pipeline.padded_dim / kDimStep);
    int num_places = 0;
    if (scored_unit < scored.num_units) {
      step.scored = &scored;
      step.scored_unit = scored_unit;
      num_places += 4 * dim_steps;
    }
    if (summed.num_units > 0) {
      const int quarter = (scored_unit + kChunkUnits - 1) % kChunkUnits;
      step.summed = &summed;
      step.first_dim = dim_steps * quarter / kChunkUnits;
      step.last_dim = dim_steps * (quarter + 1) / kChunkUnits;
      num_places += 4 * (step.last_dim - step.first_dim) * summed.num_units;
    }
    if (softened_unit < softened.num_units) {
      step.softened = &softened;
      step.softened_unit = softened_unit;
      step.masked = softened.units[softened_unit].masked;
      step.visits_a_place = num_places >= kVisits ? 1 : num_places >= kVisits / 2 ? 2 : 4;
    }
    return step;
  }

  // Steps whose code is the same run in one go.
  static void run(Pipeline& pipeline, const Step* next, const Step* end) {
    while (next != end) {
      const Step* begin = next++;
      while (next != end && next->masked == begin->masked && next->visits_a_place == begin->visits_a_place)
        ++next;
      switch (begin->visits_a_place) {
        case 0:
          run_alike<false, 0, false>(pipeline, begin, next);
          break;
        case 1:
          run_alike<1>(pipeline, begin, next);
          break;
        case 2:
          run_alike<2>(pipeline, begin, next);
          break;
        default:
          run_alike<4>(pipeline, begin, next);
      }
    }
  }

  template <int visits_a_place>
  static void run_alike(Pipeline& pipeline, const Step* begin, const Step* end) {
    if (pipeline.with_lse) {
      begin->masked ? run_alike<true, visits_a_place, true>(pipeline, begin, end)
                    : run_alike<false, visits_a_place, true>(pipeline, begin, end);
    } else {
      begin->masked ? run_alike<true, visits_a_place, false>(pipeline, begin, end)
                    : run_alike<false, visits_a_place, false>(pipeline, begin, end);
    }
  }

  template <bool masked, int visits_a_place, bool with_lse>
  [[gnu::noinline]] static void run_alike(Pipeline& pipeline, const Step* step, const Step* end) {
    const SoftmaxConstants constants(pipeline.scale);
    for (; step != end; ++step) {
      if constexpr (visits_a_place == 0) {
        NoPairs none;
        multiply(pipeline, *step, none, false);
      } else {
        const float* scores = pipeline.scores[pipeline.score_slot];
        const bool ready = pipeline.pending != scores;
        SoftmaxPairs<masked, visits_a_place, with_lse> pairs(constants, pipeline, *step->softened,
                                                             step->softened_unit, scores);
        multiply(pipeline, *step, pairs, ready);
        pairs.finish();
      }
    }
  }

  static void start_rows(Pipeline& pipeline, RowGroup& rows, const float* scores) {
    std::fill_n(rows.exp_sums, kGroupRows, 0.0f);
    std::fill_n(rows.lse_sums, kGroupRows, 0.0f);
    if (rows.has_reference) return;
    std::fill_n(rows.reference, kGroupRows, -INFINITY);
    raise_to_scores(pipeline, scores, nullptr, rows.reference);
    for (int i = 0; i < kGroupRows; i += 16) {
      const __m512 above = _mm512_add_ps(_mm512_load_ps(rows.reference + i), _mm512_set1_ps(kReferenceAbove));
      _mm512_store_ps(rows.reference + i, Exp2::reference_for(above));
    }
  }

  // `ready`: the scores that `pairs` reads have left the accumulators already; otherwise the first step of the
  // first product stores them.
  template <class Pairs>
  [[gnu::always_inline]] static void multiply(Pipeline& pipeline, const Step& step, Pairs& pairs,
                                              bool ready) {
    if (step.scored) {
      pipeline.score_slot ^= 1;
      multiply_keys(pipeline, *step.scored->rows, step.scored->units[step.scored_unit],
                    pipeline.scores[pipeline.score_slot], pairs, ready);
      ready = true;
    }
    for (int dim = step.first_dim; dim < step.last_dim; ++dim) {
      multiply_values(pipeline, *step.summed, dim, pairs, ready);
      ready = true;
    }
    if (!ready) store_accumulators(pipeline);
  }

  // scores = key x query, 32 keys by 32 rows.
  template <class Pairs>
  [[gnu::always_inline]] static void multiply_keys(Pipeline& pipeline, const RowGroup& group,
                                                   const Unit& unit, float* scores, Pairs& pairs,
                                                   bool ready) {
    const std::byte* key = unit.packed;
    const std::byte* query = group.query;
    const std::byte* const end = query + pipeline.padded_dim / kDimStep * 2 * kTileBytes;
    k_step<true>(pipeline.pending, key, query, nullptr, pairs, ready);
    for (query += 2 * kTileBytes; query != end; query += 2 * kTileBytes) {
      key += 2 * kTileBytes;
      k_step<false>(nullptr, key, query, nullptr, pairs, true);
    }
    pipeline.pending = scores;
  }

  // out_sums[32 dimensions] += value x probabilities, over the units of a chunk.
  template <class Pairs>
  [[gnu::always_inline]] static void multiply_values(Pipeline& pipeline, const Chunk& chunk, int dim,
                                                     Pairs& pairs, bool ready) {
    const auto* probabilities =
        reinterpret_cast<const std::byte*>(pipeline.probabilities[chunk.probability_slot]);
    float* sums = chunk.rows->out_sums + dim * kBlockFloats;
    const std::int64_t row = unit_bytes(pipeline.padded_dim) / 2 + dim * kDimStep * kTileRowBytes;
    k_step<true>(pipeline.pending, chunk.units[0].packed + row, probabilities, chunk.first ? nullptr : sums,
                 pairs, ready);
    for (int k = 1; k < chunk.num_units; ++k) {
      probabilities += 2 * kTileBytes;
      k_step<false>(nullptr, chunk.units[k].packed + row, probabilities, nullptr, pairs, true);
    }
    pipeline.pending = sums;
  }

  static constexpr std::int64_t kTileBytes = 1024, kTileRowBytes = 64;
  static constexpr std::int64_t kBlockRowBytes = 128;  // of accumulators in memory

  // The accumulators, tiles 0 to 3, += a[32 x 32] b[32 x 32]. The first step of a product stores each
  // accumulator to `pending` and gives it its start, `sums` or zero, just before it needs it: a burst of tile
  // stores would block the core's scheduler.
  template <bool first, class Pairs>
  [[gnu::always_inline]] static void k_step(float* pending, const std::byte* a, const std::byte* b,
                                            const float* sums, Pairs& pairs, bool advance) {
    if (advance) pairs.template advance<0>();
    Tiles::template load_streamed<4>(a, kTileRowBytes);
    Tiles::template load<6>(b, kTileRowBytes);
    if constexpr (first) exchange<0>(pending, sums);
    Tiles::template multiply_add<0, 4, 6>();
    if (advance) pairs.template advance<1>();
    Tiles::template load<7>(b + kTileBytes, kTileRowBytes);
    if constexpr (first) exchange<1>(pending, sums);
    Tiles::template multiply_add<1, 4, 7>();
    if (advance) pairs.template advance<0>();
    Tiles::template load_streamed<5>(a + kTileBytes, kTileRowBytes);
    if constexpr (first) exchange<2>(pending, sums);
    Tiles::template multiply_add<2, 5, 6>();
    if (advance) pairs.template advance<1>();
    if constexpr (first) exchange<3>(pending, sums);
    Tiles::template multiply_add<3, 5, 7>();
  }

  template <int tile>
  [[gnu::always_inline]] static void exchange(float* pending, const float* sums) {
    store<tile>(pending);
    if (sums) {
      Tiles::template load<tile>(sums + kTileOffset<tile>, kBlockRowBytes);
    } else {
      Tiles::template zero<tile>();
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
  return {pack_queries,      pack_unit,          Stage<Tiles>::begin,
          Stage<Tiles>::end, Stage<Tiles>::push, Stage<Tiles>::raise_reference};
}

}  // namespace
}  // namespace minference::kernels::amx
