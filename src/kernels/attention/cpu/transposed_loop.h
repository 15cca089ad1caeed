#pragma once

#include <initializer_list>

#include "kernels/attention/cpu/slice_kernel.h"

// The main loop of transposed-score attention over one row slice, for one instruction set. A Policy is the
// vector words of cpu/<isa>.h and:
//
//   kPack                  values of an operand (slice_kernel.h)
//   kBlock                 keys (or output columns) of a register tile; a multiple of 2
//   kVectors               vectors of 16 rows of a register tile: 4 or 1
//   kExp2Degree            of Exp2Polynomial
//   load_operands(p)       16 operands, one a lane; 64-byte aligned
//   broadcast_operand(p)   the operand at p in every lane; any alignment
//   dot(acc, a, b)         acc + a b, lane by lane, with all values of the operands
//   store_probabilities    two keys of 16 rows as operands
//   kRoundsExponents       true: there are RoundedExp2, as cpu::Bf16Exp2, for tiles whose references are known, and
//                          add_probabilities(sum, p), the sum with what store_probabilities left
//   pack_key, pack_values  as in SliceKernel
//
// kBlock * kVectors accumulators hide the latency of the multiply and leave registers for the loads.
namespace minference::kernels {

template <class Policy>
struct TransposedLoop {
  using F32x16 = typename Policy::F32x16;
  static constexpr int kBlock = Policy::kBlock;
  static constexpr int kVectors = Policy::kVectors;
  static constexpr int kPack = Policy::kPack;
  static constexpr int kGroups = kSliceRows / 16;
  static constexpr std::int64_t kOperandBytes = sizeof(Operand);

  // A row whose sum over one tile reaches 2^40 gets a new reference: far from overflow (2^128) even when
  // summed over millions of keys and multiplied by large values, and out of reach of ordinary scores.
  static constexpr float kMaxTileSum = 0x1p40f;
  // Keeps a sum of 64 keys below kMaxTileSum.
  static constexpr float kMaxScoreAboveReference = 32.0f;

  static void begin(SliceState& state, base::DType type, const void* rows, std::int64_t row_stride) {
    const int words = state.head_dim / kPack;
    const int padded_words = round_up_16(words);
    const std::int64_t row_bytes = row_stride * (type == base::DType::f32 ? 4 : 2);
    for (int lane = state.first_lane & -16; lane < kSliceRows; ++lane) {
      Operand* row = state.rows + (lane % 16) * padded_words;
      for (int i = 0; i < padded_words; i += 16) Policy::store(row + i, Policy::zero());
      if (lane >= state.first_lane) {
        const auto* source = static_cast<const char*>(rows) + (lane - state.first_lane) * row_bytes;
        Policy::pack_key(type, source, state.head_dim, row);
      }
      if (lane % 16 != 15) continue;
      for (int i = 0; i < words; i += 16) {
        Policy::transpose(state.rows + i, padded_words, state.query + i * kSliceRows + lane / 16 * 16,
                          kSliceRows);
      }
    }
    for (int lane = 0; lane < kSliceRows; ++lane) {
      // Lanes without a row have a reference from the start: they must not keep the slice from its fast path.
      state.reference[lane] = lane < state.first_lane ? 0.0f : -__builtin_inff();
      state.row_sum[lane] = 0.0f;
      if (state.lse_sum) state.lse_sum[lane] = 0.0f;
    }
    state.is_empty = true;
    state.has_references = false;
  }

  static void attend(SliceState& state, const KeyValueTile& tile) {
    const bool simple = !tile.lanes || (tile.lanes_agree && tile.num_keys == kTileKeys);
    if (!simple || !state.has_references || !attend_with_known_references(state, tile)) {
      attend_with_new_references(state, tile);
    }
    state.is_empty = false;
  }

  static void finish(const SliceState& state, base::DType type, void* rows, std::int64_t row_stride) {
    const int padded_dim = round_up_16(state.head_dim);
    const std::int64_t value_bytes = type == base::DType::f32 ? 4 : 2;
    if (state.is_empty) {
      for (int i = 0; i < state.head_dim * kSliceRows; i += 16) {
        Policy::store(state.accumulator + i, Policy::zero());
      }
    }
    for (int group = state.first_lane / 16; group < kGroups; ++group) {
      for (int d = 0; d < state.head_dim; d += 16) {
        Policy::transpose(reinterpret_cast<const Operand*>(state.accumulator) + d * kSliceRows + group * 16,
                          kSliceRows, state.rows + d, padded_dim);
      }
      for (int lane = group * 16; lane < group * 16 + 16; ++lane) {
        if (lane < state.first_lane) continue;
        const float sum = state.row_sum[lane];
        const F32x16 inverse = Policy::broadcast(sum == 0 ? 0.0f : 1 / sum);
        char* out = static_cast<char*>(rows) + (lane - state.first_lane) * row_stride * value_bytes;
        for (int d = 0; d < state.head_dim; d += 16) {
          const F32x16 values = Policy::load(state.rows + lane % 16 * padded_dim + d);
          Policy::store_as(type, out + d * value_bytes, Policy::multiply(values, inverse),
                           state.head_dim - d < 16 ? 8 : 16);
        }
      }
    }
  }

 private:
  static constexpr int round_up_16(int n) { return (n + 15) & -16; }

  // body<M>(first) for blocks of kBlock, then of kBlock - 2, that cover [0, n). n is even and at least 4.
  template <class Body>
  [[gnu::always_inline]] static void for_each_block(int n, const Body& body) {
    constexpr int kRest = kBlock > 2 ? kBlock - 2 : 2;
    int large = n / kBlock;
    while ((n - large * kBlock) % kRest != 0) --large;
    int first = 0;
    for (; large > 0; --large, first += kBlock) body.template operator()<kBlock>(first);
    for (; first < n; first += kRest) body.template operator()<kRest>(first);
  }

  // body<N>(group) for register tiles of N vectors that cover the row groups [first, kGroups).
  template <class Body>
  [[gnu::always_inline]] static void for_each_register_tile(int first, const Body& body) {
    if constexpr (kVectors == 1) {
      for (int group = first; group < kGroups; ++group) body.template operator()<1>(group);
    } else {
      static_assert(kVectors == kGroups);
      switch (first) {
        case 0:
          return body.template operator()<4>(0);
        case 1:
          return body.template operator()<3>(1);
        case 2:
          return body.template operator()<2>(2);
        case 3:
          return body.template operator()<1>(3);
      }
    }
  }

  template <int M, int N>
  struct RegisterTile {
    F32x16 acc[M][N];

    [[gnu::always_inline]] RegisterTile() {
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) acc[i][j] = Policy::zero();
      }
    }

    // acc[i][j] += sum over steps in [begin, end) of <address(i, step), b[step, 16 j ..]>, for j >= kFirst.
    template <int kFirst = 0, class Address>
    [[gnu::always_inline]] void accumulate(const Operand* b, int begin, int end, const Address& address) {
      for (int step = begin; step < end; ++step) {
        decltype(Policy::load_operands(b)) operands[N];
#pragma GCC unroll 4
        for (int j = kFirst; j < N; ++j) operands[j] = Policy::load_operands(b + step * kSliceRows + 16 * j);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
          const auto a = Policy::broadcast_operand(address(i, step));
#pragma GCC unroll 4
          for (int j = kFirst; j < N; ++j) acc[i][j] = Policy::dot(acc[i][j], a, operands[j]);
        }
      }
    }
  };

  // Probabilities of the key pairs of a block whose scores are ready, two keys of 16 rows at a time.
  // With kSkipsKeys, key_bias[i] is 0 or, for a key that no row attends to, -inf.
  template <int N, bool kSkipsKeys>
  struct PendingBlock {
    const SliceState& state;
    int group;
    const float* key_bias = nullptr;
    const float* scores = nullptr;
    Operand* probabilities = nullptr;
    int num_pairs = 0;

    [[gnu::always_inline]] void next_pair(int j) const {
      const float* pair = scores + 16 * j;
      float* tile_sum = state.tile_sum + 16 * (group + j);
      if constexpr (Policy::kRoundsExponents) {
        round_pair(j, pair, tile_sum);
        if (!state.lse_sum) return;
        tile_sum = state.tile_lse_sum + 16 * (group + j);
      }
      const F32x16 scale = Policy::broadcast(state.scale_log2);
      const F32x16 reference = Policy::load(state.reference + 16 * (group + j));
      F32x16 even = Policy::multiply_subtract(Policy::load(pair), scale, reference);
      F32x16 odd = Policy::multiply_subtract(Policy::load(pair + kSliceRows), scale, reference);
      if constexpr (kSkipsKeys) {
        even = Policy::add(even, Policy::broadcast(key_bias[0]));
        odd = Policy::add(odd, Policy::broadcast(key_bias[1]));
      }
      even = exp2(even);
      odd = exp2(odd);
      Policy::store(tile_sum, Policy::add(Policy::load(tile_sum), Policy::add(even, odd)));
      if constexpr (!Policy::kRoundsExponents) Policy::store_probabilities(probabilities + 16 * j, even, odd);
    }
    [[gnu::always_inline]] void round_pair(int j, const float* pair, float* tile_sum) const {
      const typename Policy::RoundedExp2 exp2(state.scale_log2);
      const F32x16 offset = Policy::load(state.offset + 16 * (group + j));
      F32x16 even = offset, odd = offset;
      if constexpr (kSkipsKeys) {
        even = Policy::add(even, Policy::broadcast(key_bias[0]));
        odd = Policy::add(odd, Policy::broadcast(key_bias[1]));
      }
      const auto pairs = exp2.pairs(exp2.integer(Policy::load(pair), even),
                                    exp2.integer(Policy::load(pair + kSliceRows), odd));
      Policy::store(tile_sum, exp2.add_pairs(Policy::load(tile_sum), pairs));
      Policy::store(probabilities + 16 * j, pairs);
    }
    [[gnu::always_inline]] void advance() {
      scores += 2 * kSliceRows;
      probabilities += 2 / kPack * kSliceRows;
      if constexpr (kSkipsKeys) key_bias += 2;
    }
  };

  static F32x16 exp2(F32x16 x) {
    return Policy::template exp2<Policy::kExp2Degree>(x);
  }

  // The usual tile: every row attends to all 64 keys or to the same ones, and its reference is known. Returns
  // false, having changed nothing that lasts, when a row outgrows its reference.
  static bool attend_with_known_references(SliceState& state, const KeyValueTile& tile) {
    for (int lane = 0; lane < kSliceRows; lane += 16) {
      Policy::store(state.tile_sum + lane, Policy::zero());
      if constexpr (Policy::kRoundsExponents) {
        Policy::store(state.tile_lse_sum + lane, Policy::zero());
        const F32x16 reference = Policy::load(state.reference + lane);
        Policy::store(state.offset + lane, Policy::RoundedExp2::offset_of(reference));
      }
    }
    const int first_group = state.first_lane / 16;
    if (tile.lanes) {
      float key_bias[kTileKeys];
      for (int key = 0; key < kTileKeys; ++key) key_bias[key] = tile.lanes[key] ? 0.0f : -__builtin_inff();
      for_each_register_tile(first_group, [&]<int N>(int group) {
        probabilities_of_tile<N>(state, tile, PendingBlock<N, true>{state, group, key_bias});
      });
    } else {
      for_each_register_tile(first_group, [&]<int N>(int group) {
        probabilities_of_tile<N>(state, tile, PendingBlock<N, false>{state, group});
      });
    }

    for (int lane = 0; lane < kSliceRows; lane += 16) {
      const F32x16 sum = Policy::load(state.tile_sum + lane);
      if (Policy::less(sum, Policy::broadcast(kMaxTileSum)) != 0xffff) return false;
    }
    for (int lane = 0; lane < kSliceRows; lane += 16) {
      add_to(state.row_sum + lane, Policy::load(state.tile_sum + lane));
      if (state.lse_sum) add_to(state.lse_sum + lane, Policy::load(state.tile_lse_sum + lane));
    }
    int ends[kGroups];
    for (int group = 0; group < kGroups; ++group) ends[group] = group < first_group ? 0 : kTileKeys / kPack;
    accumulate_values(state, tile, ends);
    return true;
  }

  static void add_to(float* sums, F32x16 more) {
    Policy::store(sums, Policy::add(Policy::load(sums), more));
  }

  // Scores of a block while the probabilities of the one before are computed: the exponentials fill the issue
  // slots that the multiplies leave.
  template <int N, bool kSkipsKeys>
  static void probabilities_of_tile(SliceState& state, const KeyValueTile& tile,
                                    PendingBlock<N, kSkipsKeys> pending) {
    const int group = pending.group;
    const int steps = state.head_dim / kPack;
    const Operand* query = state.query + 16 * group;
    const auto* value = static_cast<const char*>(tile.value);
    // The tile's values come to the first-level cache meanwhile, two lines an exponential: all of them up to
    // a head_dim of 128.
    const std::int64_t value_step = state.head_dim * kOperandBytes / N / kPack * 2;
    // Steps between two exponentials of pairs, so that those of a block are spread over the next.
    const int stride = steps / (kBlock / 2 * N + 1);
    int block = 0;
    for_each_block(
        kTileKeys, [&]<int M>(int first) __attribute__((always_inline)) {
          const char* rows[M];
#pragma GCC unroll 16
          for (int i = 0; i < M; ++i)
            rows[i] = static_cast<const char*>(tile.key) + (first + i) * tile.key_pitch;
          const auto address = [&](int i, int step) { return rows[i] + step * kOperandBytes; };
          RegisterTile<M, N> scores;
          int step = 0;
          for (int pair = 0; pair < pending.num_pairs; ++pair) {
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) {
              scores.accumulate(query, step, step + stride, address);
              step += stride;
              __builtin_prefetch(value);
              __builtin_prefetch(value + value_step / 2);
              value += value_step;
              pending.next_pair(j);
            }
            pending.advance();
          }
          scores.accumulate(query, step, steps, address);
          float* out = state.scores + block * kBlock * kSliceRows + 16 * group;
          block ^= 1;
          store_scores(scores, out);
          pending.scores = out;
          pending.probabilities = state.probabilities + first / kPack * kSliceRows + 16 * group;
          pending.num_pairs = M / 2;
        });
    for (int pair = 0; pair < pending.num_pairs; ++pair) {
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) pending.next_pair(j);
      pending.advance();
    }
  }

  // Any tile: masked, short, or with rows that need a new reference. Two passes: scores, then probabilities.
  [[gnu::noinline]] static void attend_with_new_references(SliceState& state, const KeyValueTile& tile) {
    const int first_group = state.first_lane / 16;
    for_each_block(tile.num_keys, [&]<int M>(int first) {
      for_each_register_tile(first_attending_group(tile, first, M, first_group),
                             [&]<int N>(int group) { scores_of_block<M, N>(state, tile, first, group); });
    });
    int ends[kGroups];
    for (int group = 0; group < kGroups; ++group) {
      const int end = group < first_group ? 0 : probabilities_of_group(state, tile, group);
      // A register tile's groups end in order, so that leading ones can be skipped.
      ends[group] = group > 0 && ends[group - 1] > end ? ends[group - 1] : end;
    }
    accumulate_values(state, tile, ends);
    state.has_references = true;
    for (int lane = 0; lane < kSliceRows; lane += 16) {
      // RoundedExp2 takes no others.
      const float limit = Policy::kRoundsExponents ? 0x1p24f : __builtin_inff();
      const F32x16 reference = Policy::load(state.reference + lane);
      const std::uint32_t known = Policy::less(Policy::broadcast(-limit), reference) &
                                  Policy::less(reference, Policy::broadcast(limit));
      if (known != 0xffff) state.has_references = false;
    }
  }

  static std::uint32_t lanes_of(const KeyValueTile& tile, int key, int group) {
    return tile.lanes ? static_cast<std::uint32_t>(tile.lanes[key] >> (16 * group)) & 0xffff : 0xffff;
  }

  // The first group of rows that attends to any of the keys; kGroups when there is none.
  static int first_attending_group(const KeyValueTile& tile, int first_key, int num_keys, int first_group) {
    if (!tile.lanes) return first_group;
    std::uint64_t lanes = 0;
    for (int i = 0; i < num_keys; ++i) lanes |= tile.lanes[first_key + i];
    return lanes == 0 ? kGroups : __builtin_ctzll(lanes) / 16;
  }

  template <int M, int N>
  static void scores_of_block(SliceState& state, const KeyValueTile& tile, int first, int group) {
    const auto* key = static_cast<const char*>(tile.key) + first * tile.key_pitch;
    RegisterTile<M, N> scores;
    scores.accumulate(state.query + 16 * group, 0, state.head_dim / kPack,
                      [&](int i, int step) { return key + i * tile.key_pitch + step * kOperandBytes; });
    store_scores(scores, state.scores + first * kSliceRows + 16 * group);
  }

  template <int M, int N>
  [[gnu::always_inline]] static void store_scores(const RegisterTile<M, N>& tile, float* out) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) Policy::store(out + i * kSliceRows + 16 * j, tile.acc[i][j]);
    }
  }

  // Scores of 16 rows to probabilities, raising references where needed. Returns the end of the operand rows
  // that hold a probability other than 0.
  static int probabilities_of_group(SliceState& state, const KeyValueTile& tile, int group) {
    const F32x16 scale = Policy::broadcast(state.scale_log2);
    const F32x16 minus_infinity = Policy::broadcast(-__builtin_inff());
    F32x16 max = minus_infinity;
    int num_keys = 0;
    for (int key = 0; key < tile.num_keys; ++key) {
      const std::uint32_t lanes = lanes_of(tile, key, group);
      if (lanes == 0) continue;
      num_keys = key + 1;
      float* scores = state.scores + key * kSliceRows + 16 * group;
      const F32x16 scaled = Policy::multiply(Policy::load(scores), scale);
      Policy::store(scores, scaled);
      max = Policy::maximum(Policy::select(lanes, scaled, minus_infinity), max);
    }
    raise_references(state, group, max);

    const F32x16 known = Policy::load(state.reference + 16 * group);
    // Rows without a key yet: any finite reference will do, as all their probabilities are 0.
    const F32x16 reference = Policy::select(Policy::less(minus_infinity, known), known, Policy::zero());
    F32x16 sum = Policy::zero(), multiplied_sum = Policy::zero();
    for (int key = 0; key < tile.num_keys; key += 2) {
      F32x16 probabilities[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        probabilities[i] = Policy::zero();
        const std::uint32_t lanes = lanes_of(tile, key + i, group);
        if (lanes == 0) continue;
        const F32x16 scores = Policy::load(state.scores + (key + i) * kSliceRows + 16 * group);
        probabilities[i] = Policy::select(lanes, exp2(Policy::subtract(scores, reference)), Policy::zero());
        sum = Policy::add(sum, probabilities[i]);
      }
      Operand* operands = state.probabilities + key / kPack * kSliceRows + 16 * group;
      Policy::store_probabilities(operands, probabilities[0], probabilities[1]);
      if constexpr (Policy::kRoundsExponents)
        multiplied_sum = Policy::add_probabilities(multiplied_sum, operands);
    }
    add_to(state.row_sum + 16 * group, Policy::kRoundsExponents ? multiplied_sum : sum);
    if (state.lse_sum) add_to(state.lse_sum + 16 * group, sum);
    return (num_keys + kPack - 1) / kPack;
  }

  static void raise_references(SliceState& state, int group, F32x16 max) {
    float* stored = state.reference + 16 * group;
    const F32x16 old = Policy::load(stored);
    const F32x16 limit = Policy::add(old, Policy::broadcast(kMaxScoreAboveReference));
    const std::uint32_t raised = Policy::less(limit, max);
    if (raised == 0) return;
    F32x16 reference = Policy::select(raised, max, old);
    if constexpr (Policy::kRoundsExponents) reference = Policy::RoundedExp2::reference_for(reference);
    Policy::store(stored, reference);
    if (state.is_empty) return;
    const F32x16 decay =
        Policy::select(raised, exp2(Policy::subtract(old, reference)), Policy::broadcast(1.0f));
    for (float* sums : {state.row_sum, state.lse_sum}) {
      if (!sums) continue;
      float* of_group = sums + 16 * group;
      Policy::store(of_group, Policy::multiply(Policy::load(of_group), decay));
    }
    for (int d = 0; d < state.head_dim; ++d) {
      float* acc = state.accumulator + d * kSliceRows + 16 * group;
      Policy::store(acc, Policy::multiply(Policy::load(acc), decay));
    }
  }

  // accumulator += values * probabilities; group g uses the first ends[g] operand rows.
  static void accumulate_values(SliceState& state, const KeyValueTile& tile, const int (&ends)[kGroups]) {
    const int next_keys_a_block = (kTileKeys * kBlock + state.head_dim - 1) / state.head_dim;
    int next_key = tile.next_key ? 0 : kTileKeys;
    for (int group = 0; group < kGroups; group += kVectors) {
      if (ends[group + kVectors - 1] == 0 && !state.is_empty) continue;
      for_each_block(
          state.head_dim, [&]<int M>(int d) __attribute__((always_inline)) {
            for (int i = 0; i < next_keys_a_block && next_key < kTileKeys; ++i) {
              const auto* row = static_cast<const char*>(tile.next_key) + next_key++ * tile.key_pitch;
              for (int step = 0; step < state.head_dim / kPack; step += 16) {
                __builtin_prefetch(row + step * kOperandBytes);
              }
            }
            accumulate_value_block<M>(state, tile, d, group, ends);
          });
    }
  }

  template <int M>
  [[gnu::always_inline]] static void accumulate_value_block(SliceState& state, const KeyValueTile& tile,
                                                            int d, int group, const int (&ends)[kGroups]) {
    const auto* value = static_cast<const char*>(tile.value) + d * kOperandBytes;
    const auto address = [&](int i, int row) { return value + row * tile.value_pitch + i * kOperandBytes; };
    const Operand* probabilities = state.probabilities + 16 * group;
    RegisterTile<M, kVectors> sums;
    sums.accumulate(probabilities, 0, ends[group], address);
    if constexpr (kVectors == 4) {
      sums.template accumulate<1>(probabilities, ends[0], ends[1], address);
      sums.template accumulate<2>(probabilities, ends[1], ends[2], address);
      sums.template accumulate<3>(probabilities, ends[2], ends[3], address);
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        float* acc = state.accumulator + (d + i) * kSliceRows + 16 * (group + j);
        Policy::store(acc, state.is_empty ? sums.acc[i][j] : Policy::add(Policy::load(acc), sums.acc[i][j]));
      }
    }
  }
};

template <class Policy>
constexpr SliceKernel make_slice_kernel(base::DType operand_type) {
  using Loop = TransposedLoop<Policy>;
  return {Policy::kPack, Policy::kRoundsExponents, operand_type,       Loop::begin, Loop::attend,
          Loop::finish,  Policy::pack_key,         Policy::pack_values};
}

}  // namespace minference::kernels
