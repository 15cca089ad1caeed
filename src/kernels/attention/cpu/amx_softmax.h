#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/exp2.h"
#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_pack.h"

// The softmax between the two products, one row of a unit (two vectors of 16 keys) at a time (AVX-512-BF16).
namespace minference::kernels::amx {
namespace {

// Keeps the compiler from loading a constant again at each of its uses.
[[gnu::always_inline]] inline __m512 in_register(float x) {
  __m512 vector = _mm512_set1_ps(x);
  __asm__("" : "+v"(vector));
  return vector;
}

// cpu::avx512::Simd::exp2<3>, with its constants in registers.
class Exp2 {
 public:
  [[gnu::always_inline]] __m512 operator()(__m512 x) const {
    const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 power = _mm512_fmadd_ps(c3_, fraction, c2_);
    power = _mm512_fmadd_ps(power, fraction, c1_);
    power = _mm512_fmadd_ps(power, fraction, one_);
    return _mm512_scalef_ps(power, x);
  }

 private:
  static constexpr auto& kCoefficients = cpu::Exp2Polynomial<3>::kCoefficients;
  __m512 one_ = in_register(1.0f);
  __m512 c1_ = in_register(kCoefficients[0]);
  __m512 c2_ = in_register(kCoefficients[1]);
  __m512 c3_ = in_register(kCoefficients[2]);
};

// sparse::PairRule::allows for the rows of a group and the keys of a unit. Keys are taken relative to the first row, so that
// a row's position is its number.
class RowMask {
 public:
  RowMask(const RowGroup& rows, const std::int32_t* positions)
      : causal_(rows.rule.causal), window_(rows.rule.local >= 0) {
    const __m512i first_row = broadcast(rows.first_position);
    local_ = broadcast(rows.rule.local);
    for (int half = 0; half < 2; ++half) {
      const __m512i keys = _mm512_load_si512(positions + 16 * half);
      keys_[half] = _mm512_sub_epi32(keys, first_row);
      present_[half] = _mm512_cmplt_epi32_mask(keys, broadcast(rows.kv_len));
      sink_[half] = _mm512_cmplt_epi32_mask(keys, broadcast(rows.rule.sink));
    }
  }

  // Bit i: row `row` of the group attends to key i.
  [[gnu::always_inline]] void allowed(int row, __mmask16 result[2]) const {
    const __m512i query = _mm512_set1_epi32(row);
    for (int half = 0; half < 2; ++half) {
      __mmask16 mask = present_[half];
      if (causal_) mask = _mm512_mask_cmple_epi32_mask(mask, keys_[half], query);
      if (window_) {
        const __m512i distance = _mm512_abs_epi32(_mm512_sub_epi32(query, keys_[half]));
        mask = static_cast<__mmask16>(mask & (sink_[half] | _mm512_cmplt_epi32_mask(distance, local_)));
      }
      result[half] = mask;
    }
  }

 private:
  static __m512i broadcast(std::int64_t x) {
    return _mm512_set1_epi32(static_cast<std::int32_t>(x < kNoKey ? x : kNoKey));
  }

  bool causal_, window_;
  __m512i local_;
  __m512i keys_[2];
  __mmask16 present_[2], sink_[2];
};

struct NoMask {
  NoMask(const RowGroup&, const std::int32_t*) {}
};

// Turns the scores of one unit into probabilities, a few rows at a time, between the tile products of other
// units.
template <bool masked>
class SoftmaxRows {
 public:
  // `num_places` says how often advance() will be called.
  SoftmaxRows(Pipeline& pipeline, const Chunk& chunk, int unit, const float* scores, int num_places)
      : scores_(reinterpret_cast<const std::byte*>(scores)),
        probabilities_(reinterpret_cast<std::byte*>(pipeline.probabilities[chunk.probability_slot][unit])),
        exp_sums_(reinterpret_cast<std::byte*>(chunk.rows->exp_sums)),
        reference_(reinterpret_cast<const std::byte*>(chunk.rows->reference)),
        scale_(in_register(pipeline.scale)),
        mask_(*chunk.rows, chunk.positions[unit]) {
    std::int64_t rows_a_place = 1;
    while (rows_a_place < kGroupRows && rows_a_place * num_places < kGroupRows) rows_a_place *= 2;
    more_ = (rows_a_place - 1) * kRowBytes;
  }

  [[gnu::always_inline]] void advance() {
    if (row_ == kEnd) return;
    do {
      row();
      row_ += kRowBytes;
    } while (row_ & more_);
  }

  void finish() {
    while (row_ != kEnd) advance();
  }

 private:
  // Of probabilities, sums and references; scores have twice that.
  static constexpr std::int64_t kRowBytes = 64;
  static constexpr std::int64_t kEnd = kGroupRows * kRowBytes;

  [[gnu::always_inline]] void row() {
    const __m512 reference = _mm512_load_ps(reference_ + row_);
    const std::byte* scores = scores_ + 2 * row_;
    __m512 low = exp2_(_mm512_fmsub_ps(_mm512_load_ps(scores), scale_, reference));
    __m512 high = exp2_(_mm512_fmsub_ps(_mm512_load_ps(scores + 64), scale_, reference));
    if constexpr (masked) {
      __mmask16 allowed[2];
      mask_.allowed(static_cast<int>(row_ / kRowBytes), allowed);
      low = _mm512_maskz_mov_ps(allowed[0], low);
      high = _mm512_maskz_mov_ps(allowed[1], high);
    }
    std::byte* sums = exp_sums_ + row_;
    _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), _mm512_add_ps(low, high)));
    _mm512_store_si512(probabilities_ + row_, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }

  const std::byte* scores_;
  std::byte* probabilities_;
  std::byte* exp_sums_;
  const std::byte* reference_;
  __m512 scale_;
  Exp2 exp2_;
  std::conditional_t<masked, RowMask, NoMask> mask_;
  std::int64_t row_ = 0;   // bytes
  std::int64_t more_ = 0;  // bits of row_ that are zero where a place's rows end
};

struct NoRows {
  void advance() {}
  void finish() {}
};

// The largest of a row's scores in a unit, in units of log 2; of those that `mask` allows, or of all when it
// is null.
inline float largest_score(const Pipeline& pipeline, const float* scores, int row, const RowMask* mask) {
  __mmask16 allowed[2] = {0xffff, 0xffff};
  if (mask) mask->allowed(row, allowed);
  const __m512 scale = _mm512_set1_ps(pipeline.scale);
  const __m512 lowest = _mm512_set1_ps(-INFINITY);
  const __m512 low = _mm512_mask_mul_ps(lowest, allowed[0], _mm512_load_ps(scores + row * kUnitKeys), scale);
  const __m512 high =
      _mm512_mask_mul_ps(lowest, allowed[1], _mm512_load_ps(scores + row * kUnitKeys + 16), scale);
  return _mm512_reduce_max_ps(_mm512_max_ps(low, high));
}

// Writes a finished row group to out and lse.
inline void finish_rows(const Pipeline& pipeline, RowGroup& rows) {
  // A probability is lost below 2^-126, so nothing that counts is lost while a row's sum stays well above it, and out_sums
  // cannot overflow while it stays well below 2^127.
  constexpr float kLowest = 0x1p-64f, kHighest = 0x1p64f;
  // Whole cache lines are written without being read first.
  const bool whole_lines = pipeline.head_dim % 32 == 0 && rows.out_stride % 32 == 0 &&
                           reinterpret_cast<std::uintptr_t>(rows.out) % 64 == 0;
  for (int i = 0; i < rows.num_rows; ++i) {
    const float sum = _mm512_reduce_add_ps(_mm512_load_ps(rows.exp_sums + i * 16));
    if (!rows.has_reference && !(sum > kLowest && sum < kHighest)) {
      rows.out_of_range = true;
      return;
    }
    const __m512 inverse = _mm512_set1_ps(sum == 0 ? 0.0f : 1 / sum);
    const float* sums = rows.out_sums + i * kDimStep;
    base::bfloat16* out = rows.out + i * rows.out_stride;
    for (std::int64_t dim = 0; dim < pipeline.head_dim; dim += kDimStep, sums += kBlockFloats) {
      const __m512 low = _mm512_mul_ps(_mm512_load_ps(sums), inverse);
      const __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + 16), inverse);
      const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
      if (whole_lines) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + dim), rounded);
      } else {
        _mm512_mask_storeu_epi16(out + dim, lanes_before(pipeline.head_dim, dim), rounded);
      }
    }
    if (rows.lse) {
      constexpr float kLog2 = 0.693147181f;
      rows.lse[i * rows.lse_stride] = sum == 0 ? -INFINITY : kLog2 * rows.reference[i * 16] + std::log(sum);
    }
  }
}

}  // namespace
}  // namespace minference::kernels::amx
