#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/attention/cpu/amx_layout.h"
#include "kernels/attention/cpu/amx_pack.h"

// The softmax between the two products, one row of a unit (two vectors of 16 keys) at a time (AVX-512-BF16).
namespace minference::kernels::amx {
namespace {

// 2^x. The polynomial is the one of degree 3 with the least relative error on [0, 1): 7.5e-5, a fiftieth of
// what rounding to bf16 costs afterwards.
class Exp2 {
 public:
  [[gnu::always_inline]] __m512 operator()(__m512 x) const {
    constexpr int kMinusFloor = 1;
    const __m512 fraction = _mm512_reduce_ps(x, kMinusFloor);
    __m512 y = _mm512_fmadd_ps(c3_, fraction, c2_);
    y = _mm512_fmadd_ps(y, fraction, c1_);
    y = _mm512_fmadd_ps(y, fraction, c0_);
    return _mm512_scalef_ps(y, x);
  }

 private:
  __m512 c0_ = _mm512_set1_ps(0.999925219f);
  __m512 c1_ = _mm512_set1_ps(0.695833541f);
  __m512 c2_ = _mm512_set1_ps(0.226067155f);
  __m512 c3_ = _mm512_set1_ps(0.0780245227f);
};

// sparse::PairRule::allows for one query and the keys of a unit.
class RowMask {
 public:
  RowMask(const RowGroup& rows, const std::int32_t* positions)
      : rule_(rows.rule), first_position_(rows.first_position), kv_len_(rows.kv_len) {
    for (int half = 0; half < 2; ++half) keys_[half] = _mm512_load_si512(positions + 16 * half);
  }

  // Bit i: row `row` of the group attends to key i.
  [[gnu::always_inline]] void allowed(int row, __mmask16 result[2]) const {
    const std::int64_t query = first_position_ + row;
    const __m512i last = broadcast(rule_.causal ? std::min(query, kv_len_ - 1) : kv_len_ - 1);
    const bool window = rule_.local >= 0;
    const __m512i near_begin = broadcast(window ? query - rule_.local + 1 : 0);
    const __m512i near_end = broadcast(window ? query + rule_.local : kv_len_);
    const __m512i sink = broadcast(rule_.sink);
    for (int half = 0; half < 2; ++half) {
      const __mmask16 near = _mm512_cmp_epi32_mask(keys_[half], near_begin, _MM_CMPINT_NLT) &
                             _mm512_cmp_epi32_mask(keys_[half], near_end, _MM_CMPINT_LT);
      const __mmask16 reached = near | _mm512_cmp_epi32_mask(keys_[half], sink, _MM_CMPINT_LT);
      result[half] = _mm512_mask_cmp_epi32_mask(reached, keys_[half], last, _MM_CMPINT_LE);
    }
  }

 private:
  [[gnu::always_inline]] static __m512i broadcast(std::int64_t position) {
    return _mm512_set1_epi32(
        static_cast<std::int32_t>(std::clamp<std::int64_t>(position, -1, std::int64_t{kNoKey} - 1)));
  }

  sparse::PairRule rule_;
  std::int64_t first_position_, kv_len_;
  __m512i keys_[2];
};

struct NoMask {
  NoMask(const RowGroup&, const std::int32_t*) {}
};

// Turns the scores of one unit into probabilities, a few rows at a time, between the tile products of other
// units.
template <bool masked>
class SoftmaxRows {
 public:
  SoftmaxRows(Pipeline& pipeline, const Chunk& chunk, int unit, const float* scores)
      : scores_(scores),
        probabilities_(pipeline.probabilities[chunk.probability_slot] + unit * kUnitKeys),
        exp_sums_(chunk.rows->exp_sums),
        reference_(chunk.rows->reference),
        scale_(_mm512_set1_ps(pipeline.scale)),
        mask_(*chunk.rows, chunk.positions[unit]) {}

  [[gnu::always_inline]] void advance(int count) {
    for (const int end = std::min(row_ + count, kGroupRows); row_ < end; ++row_) row(row_);
  }

 private:
  [[gnu::always_inline]] void row(int i) {
    const __m512 reference = _mm512_set1_ps(reference_[i]);
    const float* scores = scores_ + i * kUnitKeys;
    __m512 low = exp2_(_mm512_fmsub_ps(_mm512_load_ps(scores), scale_, reference));
    __m512 high = exp2_(_mm512_fmsub_ps(_mm512_load_ps(scores + 16), scale_, reference));
    if constexpr (masked) {
      __mmask16 allowed[2];
      mask_.allowed(i, allowed);
      low = _mm512_maskz_mov_ps(allowed[0], low);
      high = _mm512_maskz_mov_ps(allowed[1], high);
    }
    float* sums = exp_sums_ + i * 16;
    _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), _mm512_add_ps(low, high)));
    _mm512_store_si512(probabilities_ + i * kChunkUnits * kUnitKeys,
                       reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }

  const float* scores_;
  base::bfloat16* probabilities_;
  float* exp_sums_;
  const float* reference_;
  __m512 scale_;
  Exp2 exp2_;
  std::conditional_t<masked, RowMask, NoMask> mask_;
  int row_ = 0;
};

struct NoRows {
  void advance(int) {}
};

// The largest of each row's scores in a unit, in units of log 2; of those that `mask` allows, or of all when
// it is null.
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
  // A probability is lost below 2^-126, so nothing that counts is lost while a row's sum stays well above it,
  // and out_sums cannot overflow while it stays well below 2^127.
  constexpr float kLowest = 0x1p-64f, kHighest = 0x1p64f;
  for (int i = 0; i < rows.num_rows; ++i) {
    const float sum = _mm512_reduce_add_ps(_mm512_load_ps(rows.exp_sums + i * 16));
    if (!rows.has_reference && !(sum > kLowest && sum < kHighest)) {
      rows.out_of_range = true;
      return;
    }
    const __m512 inverse = _mm512_set1_ps(sum == 0 ? 0.0f : 1 / sum);
    const float* sums = rows.out_sums + i * pipeline.padded_dim;
    base::bfloat16* out = rows.out + i * rows.out_stride;
    for (std::int64_t dim = 0; dim < pipeline.head_dim; dim += 32) {
      const __m512 low = _mm512_mul_ps(_mm512_load_ps(sums + dim), inverse);
      const __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + dim + 16), inverse);
      _mm512_mask_storeu_epi16(out + dim, lanes_before(pipeline.head_dim, dim),
                               reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
    if (rows.lse) {
      constexpr float kLog2 = 0.693147181f;
      rows.lse[i * rows.lse_stride] = sum == 0 ? -INFINITY : kLog2 * rows.reference[i] + std::log(sum);
    }
  }
}

}  // namespace
}  // namespace minference::kernels::amx
