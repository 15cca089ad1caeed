#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "cpu/avx512.h"
#include "cpu/bf16_exp2.h"
#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_pack.h"

// The softmax between the two products, and the output behind them. Vectors hold 16 query rows, so that row
// sums stay in two registers.
namespace minference::kernels::amx {
namespace {

// Keeps the compiler from loading a constant again at each of its uses.
[[gnu::always_inline]] inline __m512i in_register(__m512i vector) {
  __asm__("" : "+v"(vector));
  return vector;
}

using Exp2 = cpu::Bf16Exp2<true>;

// Turns the scores of one unit into probabilities, between the tile products of other units. A *visit* is two
// keys for half of the rows; a unit has 32.
inline constexpr int kVisits = kUnitKeys / 2 * 2;

// What it needs in registers, the same for every unit.
struct SoftmaxConstants {
  explicit SoftmaxConstants(float score_scale) : scale(score_scale), exp2(score_scale) {}
  float scale;
  Exp2 exp2;
};

template <bool masked, int visits_a_place, bool with_lse>
class SoftmaxPairs {
 public:
  [[gnu::always_inline]] SoftmaxPairs(const SoftmaxConstants& constants, Pipeline& pipeline,
                                      const Chunk& chunk, int unit, const float* scores)
      : constants_(constants),
        scores_(scores),
        probabilities_(pipeline.probabilities[chunk.probability_slot][unit]),
        masks_(chunk.masks[unit]),
        rows_(*chunk.rows) {
    for (int half = 0; half < 2; ++half) {
      references_[half] = _mm512_load_ps(rows_.reference + 16 * half);
      offsets_[half] = Exp2::offset_of(references_[half]);
      sums_[half] = _mm512_load_ps(rows_.exp_sums + 16 * half);
      if constexpr (with_lse) lse_sums_[half] = _mm512_load_ps(rows_.lse_sums + 16 * half);
    }
  }

  // Places take turns between the halves of the rows, 0 first.
  template <int half>
  [[gnu::always_inline]] void advance() {
    if (left_ == 0) return;
    if constexpr (visits_a_place == 1) return visit<half>();
    for (int i = 0; i < visits_a_place / 2; ++i) {
      visit<0>();
      visit<1>();
    }
  }

  [[gnu::always_inline]] void finish() {
    while (left_ > 0) {
      visit<0>();
      visit<1>();
    }
    for (int half = 0; half < 2; ++half) {
      _mm512_store_ps(rows_.exp_sums + 16 * half, sums_[half]);
      if constexpr (with_lse) _mm512_store_ps(rows_.lse_sums + 16 * half, lse_sums_[half]);
    }
  }

 private:
  template <int half>
  [[gnu::always_inline]] void visit() {
    const float* scores = scores_ + 16 * half;
    __mmask16 even_mask = 0xffff, odd_mask = 0xffff;
    if constexpr (masked) {
      even_mask = static_cast<__mmask16>(masks_[0] >> (16 * half));
      odd_mask = static_cast<__mmask16>(masks_[1] >> (16 * half));
    }
    const __m512 even = _mm512_load_ps(scores), odd = _mm512_load_ps(scores + kGroupRows);
    const __m512i pairs = constants_.exp2.pairs(constants_.exp2.integer(even, offsets_[half], even_mask),
                                                constants_.exp2.integer(odd, offsets_[half], odd_mask));
    sums_[half] = Exp2::add_pairs(sums_[half], pairs);
    _mm512_store_si512(probabilities_ + 16 * 32 * half, pairs);
    if constexpr (with_lse) {
      lse_sums_[half] = _mm512_add_ps(lse_sums_[half], unrounded(even, half, even_mask));
      lse_sums_[half] = _mm512_add_ps(lse_sums_[half], unrounded(odd, half, odd_mask));
    }
    if constexpr (half == 1) {
      scores_ += 2 * kGroupRows;
      probabilities_ += 2 * 16;
      masks_ += 2;
      left_ -= 2;
    }
  }

  // A probability's rounding may be 0.7 %, too much for the LSE of a row with few keys.
  [[gnu::always_inline]] __m512 unrounded(__m512 score, int half, __mmask16 mask) const {
    const __m512 x = _mm512_fmsub_ps(score, _mm512_set1_ps(constants_.scale), references_[half]);
    return _mm512_maskz_mov_ps(mask, cpu::avx512::Simd::exp2<3>(x));
  }

  SoftmaxConstants constants_;
  const float* scores_;
  base::bfloat16* probabilities_;
  const std::uint32_t* masks_;
  const RowGroup& rows_;
  __m512 references_[2], offsets_[2];
  __m512 sums_[2], lse_sums_[2];
  int left_ = kVisits;
};

struct NoPairs {
  template <int half>
  void advance() {}
  void finish() {}
};

// reference = max(itself, the unit's scores), in units of log 2; of those that `masks` allow, or of all when
// it is null.
inline void raise_to_scores(const Pipeline& pipeline, const float* scores, const std::uint32_t* masks,
                            float* reference) {
  for (int first = 0; first < kGroupRows; first += 16) {
    const __m512 scale = _mm512_set1_ps(pipeline.scale);
    __m512 largest = _mm512_load_ps(reference + first);
    for (int i = 0; i < kUnitKeys; ++i) {
      const __mmask16 allowed = masks ? static_cast<__mmask16>(masks[i] >> first) : __mmask16{0xffff};
      const __m512 score = _mm512_mul_ps(_mm512_load_ps(scores + i * kGroupRows + first), scale);
      largest = _mm512_mask_max_ps(largest, allowed, largest, score);
    }
    _mm512_store_ps(reference + first, largest);
  }
}

// Rounds two vectors to bf16, halves up, and pairs them: word i = (even[i], odd[i]). An integer addition and
// one byte shuffle take a third of the conversion instruction's time and do not need a permute after it.
class RoundedPairs {
 public:
  [[gnu::always_inline]] __m512i operator()(__m512 even, __m512 odd) const {
    const __m512i low = _mm512_add_epi32(_mm512_castps_si512(even), half_);
    const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half_);
    return _mm512_mask_shuffle_epi8(high, 0x3333333333333333, low, upper_halves_);
  }

 private:
  __m512i half_ = in_register(_mm512_set1_epi32(0x8000));
  __m512i upper_halves_ = in_register(_mm512_set4_epi32(0x0f0e, 0x0b0a, 0x0706, 0x0302));
};

// Writes 16 rows of a finished row group to out and lse, from row `first` on.
inline void finish_half(const Pipeline& pipeline, const RowGroup& rows, int first) {
  const int num_rows = std::min(rows.num_rows - first, 16);
  const __m512 sum = _mm512_load_ps(rows.exp_sums + first);
  const __mmask16 some = _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  const __m512 inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0f), sum);
  // Whole cache lines are written without being read first.
  const bool whole_lines = pipeline.head_dim % 32 == 0 && rows.out_stride % 32 == 0 &&
                           reinterpret_cast<std::uintptr_t>(rows.out) % 64 == 0;
  const RoundedPairs round;
  alignas(64) std::uint32_t pairs[16 * kTileWords], out_rows[16 * kTileWords];
  for (std::int64_t dim = 0; dim < pipeline.head_dim; dim += kDimStep) {
    const float* sums = rows.out_sums + dim * kGroupRows + first;
    for (int i = 0; i < 16; ++i, sums += 2 * kGroupRows) {
      const __m512 even = _mm512_mul_ps(_mm512_load_ps(sums), inverse);
      const __m512 odd = _mm512_mul_ps(_mm512_load_ps(sums + kGroupRows), inverse);
      _mm512_store_si512(pairs + i * kTileWords, round(even, odd));
    }
    cpu::avx512::Simd::transpose(pairs, kTileWords, out_rows, kTileWords);
    base::bfloat16* out = rows.out + first * rows.out_stride + dim;
    const __mmask32 lanes = lanes_before(pipeline.head_dim, dim);
    for (int i = 0; i < num_rows; ++i, out += rows.out_stride) {
      const __m512i row = _mm512_load_si512(out_rows + i * kTileWords);
      if (whole_lines) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out), row);
      } else {
        _mm512_mask_storeu_epi16(out, lanes, row);
      }
    }
  }
  if (!rows.lse) return;
  for (int i = first; i < first + num_rows; ++i) {
    constexpr float kLog2 = 0.693147181f;
    rows.lse[i * rows.lse_stride] =
        rows.exp_sums[i] == 0 ? -INFINITY : kLog2 * rows.reference[i] + std::log(rows.lse_sums[i]);
  }
}

// A row's largest score lies rarely far below the largest of its first unit, which mostly is its own, and
// sometimes far above: the reference is put so much higher.
inline constexpr float kReferenceAbove = 40;

inline bool all_finite(const float* x, std::int64_t count) {
  constexpr int kInfiniteOrNan = 0x99;
  __mmask16 found = 0;
  for (std::int64_t i = 0; i < count; i += 16) {
    found |= _mm512_fpclass_ps_mask(_mm512_load_ps(x + i), kInfiniteOrNan);
  }
  return found == 0;
}

// Writes a finished row group to out and lse.
inline void finish_rows(const Pipeline& pipeline, RowGroup& rows) {
  // A product of a probability and a value is lost below 2^-126, so nothing that counts is lost of values from
  // 2^-50 on while a row's sum stays above kLowest. While it stays below kOrdinary, out_sums does not reach 2^128
  // with values up to 2^64; up to kHighest it seldom does.
  constexpr float kLowest = 0x1p-64f, kOrdinary = 0x1p60f, kHighest = 0x1p88f;
  if (!rows.has_reference) {
    const auto stays_below = [&](float highest) {
      return std::all_of(rows.exp_sums, rows.exp_sums + rows.num_rows,
                         [&](float sum) { return sum > kLowest && sum < highest; });
    };
    rows.out_of_range =
        !stays_below(kOrdinary) &&
        !(stays_below(kHighest) && all_finite(rows.out_sums, pipeline.padded_dim * kGroupRows));
    if (rows.out_of_range) return;
  }
  for (int first = 0; first < rows.num_rows; first += 16) finish_half(pipeline, rows, first);
}

}  // namespace
}  // namespace minference::kernels::amx
