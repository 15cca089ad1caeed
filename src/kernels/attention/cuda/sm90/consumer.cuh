#pragma once

#include <type_traits>

#include "cuda/math.cuh"
#include "cuda/tma.cuh"
#include "cuda/wgmma.cuh"
#include "kernels/attention/cuda/sm90/config.h"
#include "kernels/attention/cuda/sm90/softmax.cuh"

// A consumer warpgroup of the Hopper attention kernel: one half (64 rows) of every item of its CTA.
//
// It runs one software pipeline over all items. Each step issues the scores of one or two tiles and the product of
// the step before with its values, back to back, and does the softmax while that product and the other
// warpgroup's matrix products run. With queries in registers, the "next step" at an item's end is the next item's
// first, so the tensor cores never drain. The two warpgroups take turns at issuing.
namespace minference::kernels::cuda::sm90 {

// A step's tiles, as uses of the rings of keys and values; the same one twice when the second is absent.
struct StepTiles {
  int packed;

  __device__ __forceinline__ StepTiles() {}
  __device__ __forceinline__ StepTiles(int first, int second) : packed(first | second << 8) {}
  __device__ __forceinline__ int first() const { return packed & 0xff; }
  __device__ __forceinline__ int second() const { return packed >> 8; }
  __device__ __forceinline__ bool is_pair() const { return first() != second(); }
};

// What of a step's scores counts; found while the scores are still being computed.
template <class Config>
struct StepMask {
  KeptScores kept[Config::kStepTiles];
};

template <class Config>
class Consumer {
  using T = typename Config::T;
  using Mask = StepMask<Config>;
  static constexpr int kStepTiles = Config::kStepTiles;
  static constexpr int kStepScores = Config::kStepScores;
  static constexpr int kOutputs = Config::kHeadDim / 2;
  struct alignas(sizeof(std::int32_t) * kStepTiles) StepOrder {
    std::int32_t place[kStepTiles];
  };
  using KeyUse = RingPosition<Config::kKeySlots>;
  using ValueUse = RingPosition<Config::kValueSlots>;

 public:
  __device__ __forceinline__ Consumer(SharedMemory<Config>& shared, const Plan& plan, const CUtensorMap& out,
                                      float scale_log2, base::RowsView lse)
      : shared_(shared), plan_(plan), out_(out), scale_log2_(scale_log2), lse_(lse) {
    // A vote, so that the compiler knows that every address made from it is uniform.
    half_ = __any_sync(minference::cuda::kAllLanes, threadIdx.x >= 2 * kWarpgroup) ? 1 : 0;
    key_operand_ = minference::cuda::wgmma_operand(minference::cuda::shared_address(shared.key[0][0]));
    value_operand_ = minference::cuda::wgmma_operand(minference::cuda::shared_address(shared.value[0][0]),
                                                     Config::kValuePanelStride);
    if constexpr (!Config::kQueryInRegisters) {
      query_operand_ = minference::cuda::wgmma_operand(minference::cuda::shared_address(shared.query)) +
                       half_ * minference::cuda::wgmma_operand_step(kHalfRows * kPanelRowBytes);
    }
  }

  __device__ __forceinline__ void run() {
    using minference::cuda::warp_uniform;
    wait_for_item();
    if (warp_uniform(item().head) < 0) return;
    if (half_ == 1) minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfLowerHalf);
    if constexpr (Config::kQueryInRegisters) {
      load_query();
      if (lane() == 0) shared_.query_empty.arrive();
    }
    StepTiles now = run_first_step(0);
    while (true) {
      const int plain = warp_uniform(item().plain_steps[half_]);
      int step = 1;
#pragma unroll 1
      for (; step < plain; ++step) {
        const StepTiles before = now;
        now = next_;
        run_step<false>(step, now, before);
      }
      next_ = tiles_of(step);
#pragma unroll 1
      for (const int steps = steps_of(half_); step < steps; ++step) {
        const StepTiles before = now;
        now = next_;
        run_step<true>(step, now, before);
      }
      const bool is_shorter = turns_of(half_) < turns_of(1 - half_);
      if constexpr (Config::kQueryInRegisters) {
        if (is_shorter) pass_turn();
      }

      const int head = item().head, row = item().first_row + warp_row();
      const int column_tiles = warp_uniform(item().column_tiles());
      const int next_use = use_after(first_use_, warp_uniform(item().num_entries) + column_tiles);
      mask_use_ = use_after(mask_use_, column_tiles);
      item_use_ = (item_use_ + 1) % (2 * kItemBuffers);
      const StepTiles before = now;
      if constexpr (Config::kQueryInRegisters) {
        const Softmax done = softmax_;
        settle_store();
        wait_for_item();
        if (warp_uniform(item().head) < 0) {
          run_last_product(before);
          store(done, head, row);
          break;
        }
        load_query();
        now = begin_item(next_use);
        issue(now, before);
        find_next(1);
        const Mask mask = mask_of(0, now);
        wait_for_scores();
        finish_first_softmax(now, mask);
        finish_product(before);
        store(done, head, row);
        clear_output();
        pack_weights();
        unsettled_ = true;
      } else {
        run_last_product(before);
        if (is_shorter) pass_turn();
        // All of the half's scores are there: their rows of queries may be written over.
        minference::cuda::named_barrier_sync<kWarpgroup>(kLowerHalf + half_);
        store(softmax_, head, row);
        unsettled_ = true;
        settle_store();
        wait_for_item();
        if (warp_uniform(item().head) < 0) break;
        now = run_first_step(next_use);
      }
    }
    if (lane() == 0) minference::cuda::tma_store_wait();
  }

 private:
  // Recomputed where they are used, since registers are short.
  static __device__ __forceinline__ int lane() {
    return static_cast<int>(threadIdx.x % 32);
  }
  __device__ __forceinline__ int warp_row() const {
    return half_ * kHalfRows + static_cast<int>(threadIdx.x / 32 % kHalfWarps) * kWarpRows;
  }
  // Shared address of the lane's row of queries, for load_matrices and store_matrices.
  __device__ __forceinline__ std::uint32_t query_row() const {
    return minference::cuda::shared_address(shared_.query) + (warp_row() + lane() % 16) * kPanelRowBytes;
  }

  __device__ __forceinline__ const Item& item() const {
    return shared_.item[item_use_ % kItemBuffers];
  }

  __device__ __forceinline__ void wait_for_item() {
    const RingPosition<kItemBuffers> at(item_use_);
    shared_.item_full[at.slot].wait(at.parity);
  }

  __device__ __forceinline__ int steps_of(int half) const {
    return minference::cuda::warp_uniform((item().tiles[half] + item().column_tiles() + kStepTiles - 1) /
                                          kStepTiles);
  }

  __device__ __forceinline__ int turns_of(int half) const {
    if constexpr (Config::kQueryInRegisters) return steps_of(half);
    return steps_of(half) + lower_late(half);
  }
  __device__ __forceinline__ int lower_late(int half) const {
    return half == 0 ? minference::cuda::warp_uniform(item().lower_late) : 0;
  }

  // Returns the tiles of an item's first step. first_use: of the rings, by the item's entry 0.
  __device__ __forceinline__ StepTiles begin_item(int first_use) {
    using minference::cuda::warp_uniform;
    first_use_ = first_use;
    if constexpr (!Config::kPairs) {
      order_at_ = item().order_at[half_] / kStepTiles;
      for (int i = 0; i < kStepTiles; ++i) order_.place[i] = item().first[half_][i];
    }
    find_next(0);
    return tiles_of(0);
  }

  // Finds the tiles of step `number`, one step ahead, so that nothing waits for what it takes. Steps are asked
  // for in order. Where a step has fewer tiles left, tiles_of() replaces the others.
  __device__ __forceinline__ void find_next(int number) {
    if constexpr (Config::kPairs) {
      const int first = use_after(first_use_, 2 * number);  // even, as is every ring's size
      next_ = {first, first + 1};
    } else {
      next_ = {use_after(first_use_, order_.place[0]), use_after(first_use_, order_.place[kStepTiles - 1])};
      next_.packed = minference::cuda::warp_uniform(next_.packed);
      order_ = reinterpret_cast<const StepOrder*>(plan_.order)[++order_at_];
    }
  }

  // What find_next() found for step `number`, with columns behind the last tile.
  __device__ __forceinline__ StepTiles tiles_of(int number) const {
    using minference::cuda::warp_uniform;
    if constexpr (Config::kPairs) return next_;
    const int tiles = warp_uniform(item().tiles[half_]), total = tiles + warp_uniform(item().column_tiles());
    const int j = kStepTiles * number, first_column = first_use_ + warp_uniform(item().num_entries) - tiles;
    const int first = j < tiles ? next_.first() : use_after(first_column, j);
    if constexpr (kStepTiles == 1) return {first, first};
    const int second = j + 1 < tiles ? next_.second() : use_after(first_column, j + 1);
    return {first, j + 1 < total ? second : first};
  }

  __device__ __forceinline__ void wait_for_keys(StepTiles tiles) {
    const KeyUse first(tiles.first()), second(tiles.second());
    if constexpr (kStepTiles == 1) return shared_.key_full[first.slot].wait(first.parity);
    minference::cuda::wait_for_both(shared_.key_full[first.slot], first.parity, shared_.key_full[second.slot],
                                    second.parity);
  }

  __device__ __forceinline__ void wait_for_values(StepTiles tiles) {
    const ValueUse first(tiles.first()), second(tiles.second());
    if constexpr (kStepTiles == 1) return shared_.value_full[first.slot].wait(first.parity);
    minference::cuda::wait_for_both(shared_.value_full[first.slot], first.parity,
                                    shared_.value_full[second.slot], second.parity);
  }

  __device__ __forceinline__ void release_keys(StepTiles tiles) {
    if (lane() == 0) {
      shared_.key_empty[KeyUse(tiles.first()).slot].arrive();
      if (kStepTiles == 2 && tiles.is_pair()) shared_.key_empty[KeyUse(tiles.second()).slot].arrive();
    }
  }

  // This warp's rows of the item's queries, 16 elements from 16 k on.
  __device__ __forceinline__ QueryPart load_query_part(int k) const {
    const int chunk = (2 * (k % 4) + lane() / 16) ^ lane() % 8;  // of 8 elements, swizzled
    QueryPart part;
    minference::cuda::load_matrices(part.words,
                                    query_row() + k / 4 * Config::kQueryPanelBytes + (chunk << 4));
    return part;
  }

  __device__ __forceinline__ void load_query() {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) query_[k] = load_query_part(k);
    __syncwarp();
  }

  __device__ __forceinline__ QueryPart query_part(int k) const {
    if constexpr (Config::kQueryInRegisters) return query_[k];
    return load_query_part(k);
  }

  // scores = query * keys^T. Two tiles in neighbouring slots make one operand, so that queries are read once.
  __device__ __forceinline__ void issue_scores(StepTiles tiles) {
    using namespace minference::cuda;
    const std::uint32_t first =
        key_operand_ + KeyUse(tiles.first()).slot * wgmma_operand_step(kTilePanelBytes);
    const std::uint32_t second =
        key_operand_ + KeyUse(tiles.second()).slot * wgmma_operand_step(kTilePanelBytes);
    std::uint32_t all_queries = 0;
    if constexpr (!Config::kQueryInRegisters) all_queries = recomputed(query_operand_);
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      const std::uint32_t key =
          k / 4 * wgmma_operand_step(Config::kKeyPanelStride) + wgmma_operand_step(k % 4 * 32);
      if constexpr (!Config::kQueryInRegisters) {
        const std::uint32_t query = all_queries + k / 4 * wgmma_operand_step(Config::kQueryPanelBytes) +
                                    wgmma_operand_step(k % 4 * 32);
        wgmma_shared<T, kTileKeys>(scores_, wgmma_descriptor(query), wgmma_descriptor(first + key), k != 0);
      } else if constexpr (Config::kPairs) {
        const std::uint32_t* query = query_[k].words;
        wgmma_registers_rows_along_k<T, 2 * kTileKeys>(scores_, query, wgmma_descriptor(first + key), k != 0);
      } else {
        const std::uint32_t* query = query_[k].words;
        wgmma_registers_rows_along_k<T, kTileKeys>(scores_, query, wgmma_descriptor(first + key), k != 0);
        wgmma_registers_rows_along_k<T, kTileKeys>(scores_ + kTileScores, query,
                                                   wgmma_descriptor(second + key), k != 0);
      }
    }
  }

  // output += weights * values.
  __device__ __forceinline__ void issue_product(StepTiles tiles) {
    using namespace minference::cuda;
    const std::uint32_t operand[2] = {
        value_operand_ + ValueUse(tiles.first()).slot * wgmma_operand_step(kTilePanelBytes),
        value_operand_ + ValueUse(tiles.second()).slot * wgmma_operand_step(kTilePanelBytes)};
#pragma unroll
    for (int k = 0; k < kStepTiles * kTileKeys / 16; ++k) {
      const std::uint32_t value = operand[k / 4] + wgmma_operand_step(k % 4 * 16 * kPanelRowBytes);
      wgmma_registers<T, Config::kHeadDim>(output_, weights_ + 4 * k, wgmma_descriptor(value), 1);
    }
  }

  // An item's first step where no product is left to be issued with it. Returns its tiles.
  __device__ __forceinline__ StepTiles run_first_step(int first_use) {
    using namespace minference::cuda;
    const StepTiles now = begin_item(first_use);
    if constexpr (!Config::kQueryInRegisters) {
      if (lower_late(half_) != 0) pass_turn();
    }
    wait_for_turn();
    wait_for_keys(now);
    wgmma_fence();
    issue_scores(now);
    wgmma_commit();
    give_turn();
    wgmma_wait<0>();
    wgmma_pin(scores_);
    find_next(1);
    finish_first_softmax(now, mask_of(0, now));
    clear_output();
    pack_weights();
    return now;
  }

  // An item's last product where no scores go before it.
  __device__ __forceinline__ void run_last_product(StepTiles before) {
    using namespace minference::cuda;
    wait_for_turn();
    wait_for_values(before);
    wgmma_fence();
    issue_product(before);
    wgmma_commit();
    give_turn();
    finish_product(before);
  }

  // Issues the scores of a step and the product of the one before.
  //
  // A barrier's parity tells one fill of a slot from the next, not from the one after. The fill before the one
  // waited for must therefore have arrived, and if it was the other half's alone, only the other half knows:
  // paired_lists_test.cc shows that it has had its turn with that tile by then.
  __device__ __forceinline__ void issue(StepTiles now, StepTiles before) {
    using namespace minference::cuda;
    if constexpr (Config::kPairs) wait_for_keys(now);
    wait_for_turn();
    if constexpr (!Config::kPairs) wait_for_keys(now);
    wgmma_fence();
    issue_scores(now);
    wgmma_commit();
    wait_for_values(before);
    wgmma_fence();
    issue_product(before);
    wgmma_commit();
    give_turn();
  }

  __device__ __forceinline__ void wait_for_scores() {
    minference::cuda::wgmma_wait<1>();
    minference::cuda::wgmma_pin(scores_);
  }

  // Returns x, of which the compiler keeps nothing from one step to the next: what it would keep lies in local memory.
  template <class X>
  static __device__ __forceinline__ X recomputed(X x) {
    asm volatile("" : "+r"(x));
    return x;
  }
  __device__ __forceinline__ void wait_for_turn() const {
    minference::cuda::named_barrier_sync<2 * kWarpgroup>(kTurnOfLowerHalf + recomputed(half_));
  }
  __device__ __forceinline__ void give_turn() const {
    minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfUpperHalf - recomputed(half_));
  }
  __device__ __forceinline__ void pass_turn() {
    wait_for_turn();
    give_turn();
  }

  __device__ __forceinline__ void finish_product(StepTiles before) {
    using namespace minference::cuda;
    wgmma_wait<0>();
    wgmma_pin(output_);
    if (lane() == 0) {
      shared_.value_empty[ValueUse(before.first()).slot].arrive();
      if (kStepTiles == 2 && before.is_pair()) shared_.value_empty[ValueUse(before.second()).slot].arrive();
    }
    settle_store();
  }

  // One step that is not an item's first.
  template <bool Masked>
  __device__ __forceinline__ void run_step(int number, StepTiles now, StepTiles before) {
    issue(now, before);
    find_next(number + 1);
    Mask mask;
    if constexpr (Masked) {
      mask = mask_of(number, now);
      next_ = tiles_of(number + 1);
    }
    wait_for_scores();
    if constexpr (Masked) apply(mask);
    float part[2], factor[2];
    softmax_.exponentials(scores_, scale_log2_, part);
    // Uniform in the warp but not in the warpgroup, so no wgmma instruction may stand in the branch.
    const bool out_of_range =
        __any_sync(minference::cuda::kAllLanes, !(fmaxf(part[0], part[1]) <= kLargestSum<T>));
    if (out_of_range) {
      const auto query = [&](int k) { return query_part(k); };
      scores_again<Config, 0>(scores_, query, key_tile(now.first()));
      if constexpr (kStepTiles == 2) scores_again<Config, 1>(scores_, query, key_tile(now.second()));
      if constexpr (Masked) apply(mask);
      softmax_.raise(scores_, scale_log2_, factor);
      softmax_.exponentials(scores_, scale_log2_, part);
    }
    if (out_of_range) __syncwarp();  // all lanes have read the tiles
    release_keys(now);
    softmax_.sum[0] += part[0];
    softmax_.sum[1] += part[1];
    finish_product(before);
    if (out_of_range) scale_output(factor);
    pack_weights();
  }

  __device__ __forceinline__ void finish_first_softmax(StepTiles now, const Mask& mask) {
    apply(mask);
    softmax_.begin(scores_, scale_log2_);
    softmax_.exponentials(scores_, scale_log2_, softmax_.sum);
    release_keys(now);
  }

  __device__ __forceinline__ std::uint32_t key_tile(int use) const {
    return minference::cuda::shared_address(shared_.key[0][KeyUse(use).slot]);
  }

  // The number among the columns of a step's first tile; negative: it is none.
  __device__ __forceinline__ int first_column_tile(int number) const {
    return kStepTiles * number - minference::cuda::warp_uniform(item().tiles[half_]);
  }

  __device__ __forceinline__ Mask mask_of(int number, StepTiles now) {
    const int column_tile = Config::kPairs ? -2 : first_column_tile(number);
    const KeptScores first = kept_of_tile(now.first(), column_tile);
    if constexpr (kStepTiles == 1) {
      return {first};
    } else {
      return {first, now.is_pair() ? kept_of_tile(now.second(), column_tile + 1) : 0};
    }
  }

  __device__ __forceinline__ KeptScores kept_of_tile(int use, int column_tile) {
    if (column_tile >= 0) return kept_of_columns(column_tile);
    // By the lane that gives the slot back, so that no other lane's reading need be ordered before that.
    int start = lane() == 0 ? shared_.key_start[KeyUse(use).slot] : 0;
    start = __shfl_sync(minference::cuda::kAllLanes, start, 0);
    const int warp_position = item().first_row + warp_row() + plan_.kv_len - plan_.q_len;
    const WindowRule window = {item().local, item().sink};
    if (sees_all(warp_position, kWarpRows, window, key_limit(warp_position), start, kTileKeys))
      return kKeepAll;
    const int position = warp_position + lane() / 4, first_key = start + 2 * (lane() % 4);
    return keep_keys({VisibleKeys::of(position, window, key_limit(position), first_key),
                      VisibleKeys::of(position + 8, window, key_limit(position + 8), first_key)});
  }

  __device__ __forceinline__ int key_limit(int position) const {
    return cuda::key_limit(plan_.causal != 0, position, plan_.kv_len);
  }

  __device__ __forceinline__ KeptScores kept_of_columns(int column_tile) {
    const RingPosition<kColumnMasks> at(use_after(mask_use_, column_tile));
    shared_.mask_full[at.slot].wait(at.parity);
    constexpr int kLate = kColumnMaskReaders - 1;
    KeptScores word = 0;
    if (lane() <= kLate) {
      word = shared_.column_mask[at.slot].words[half_][lane()];
      shared_.mask_empty[at.slot].arrive();
    }
    const KeptScores kept = __shfl_sync(minference::cuda::kAllLanes, word, lane() % 4);
    const bool late = __shfl_sync(minference::cuda::kAllLanes, word, kLate) != 0;
    return late ? kept & ~late_columns(column_tile) : kept;
  }

  // Columns behind some row of the half: rows before them do not see them.
  __device__ __forceinline__ KeptScores late_columns(int column_tile) const {
    const std::int32_t* columns = plan_.columns +
                                  static_cast<std::int64_t>(item().head) * plan_.column_capacity +
                                  column_tile * kTileKeys;
    const int position = item().first_row + warp_row() + lane() / 4 + plan_.kv_len - plan_.q_len;
    const int left = item().num_columns - column_tile * kTileKeys;
    KeptScores late = 0;
#pragma unroll
    for (int i = 0; i < kTileScores / 2; ++i) {
      const int n = i / 2 * 8 + 2 * (lane() % 4) + i % 2, bit = i / 2 * 4 + i % 2;
      const int column = n < left ? __ldg(columns + n) : 0;
      if (column > position) late |= 1u << bit;
      if (column > position + 8) late |= 4u << bit;
    }
    return late;
  }

  __device__ __forceinline__ void apply(const Mask& mask) {
    if (__any_sync(minference::cuda::kAllLanes, (mask.kept[0] & mask.kept[kStepTiles - 1]) != kKeepAll)) {
      mask_scores<kStepTiles>(scores_, mask.kept);
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kStepScores / 2; ++i) {
      weights_[i] = minference::cuda::pack<T>(scores_[2 * i], scores_[2 * i + 1]);
    }
  }

  __device__ __forceinline__ void scale_output(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) output_[i] *= factor[i / 2 % 2];
  }

  __device__ __forceinline__ void clear_output() {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) output_[i] = 0.0f;
  }

  // Normalises the output, writes it over this warp's rows of the queries and sends it from there.
  __device__ __forceinline__ void store(const Softmax& softmax, int head, int row) {
    using namespace minference::cuda;
    const float sum[2] = {softmax.row_sum(0), softmax.row_sum(1)};
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) inverse[r] = sum[r] > 0.0f ? __fdividef(1.0f, sum[r]) : 0.0f;
    std::uint8_t* rows = shared_.query + warp_row() * kPanelRowBytes;
#pragma unroll
    for (int j = 0; j < kOutputs / 8; ++j) {
      const int chunk = (2 * j % 8 + lane() / 16) ^ lane() % 8;
      const float* x = output_ + 8 * j;
      store_matrices(
          query_row() + j / 4 * Config::kQueryPanelBytes + (chunk << 4),
          pack<T>(x[0] * inverse[0], x[1] * inverse[0]), pack<T>(x[2] * inverse[1], x[3] * inverse[1]),
          pack<T>(x[4] * inverse[0], x[5] * inverse[0]), pack<T>(x[6] * inverse[1], x[7] * inverse[1]));
    }
    fence_async_shared();
    __syncwarp();
    if (lane() == 0) {
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        tma_store(out_, rows + panel * Config::kQueryPanelBytes, panel * kPanelDim, row, head);
      }
      tma_store_commit();
    }
    if (lse_.data != nullptr && lane() % 4 == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = row + lane() / 4 + 8 * r;
        if (at < plan_.q_len) {
          lse_.data[head * lse_.head_stride + at * lse_.row_stride] = softmax.lse(r, sum[r]);
        }
      }
    }
  }

  // Gives back the rows of queries from which the output has been sent.
  __device__ __forceinline__ void settle_store() {
    if (!unsettled_) return;
    if (lane() == 0) {
      minference::cuda::tma_store_wait_read();
      shared_.query_empty.arrive();
    }
    __syncwarp();
    unsettled_ = false;
  }

  SharedMemory<Config>& shared_;
  const Plan& plan_;
  const CUtensorMap& out_;
  const float scale_log2_;
  const base::RowsView lse_;
  int half_;
  std::uint32_t key_operand_, value_operand_, query_operand_;

  QueryPart query_[Config::kQueryInRegisters ? Config::kHeadDim / 16 : 1];
  float scores_[kStepScores];
  std::uint32_t weights_[kStepScores / 2];
  float output_[kOutputs];
  Softmax softmax_;
  StepTiles next_;          // what find_next() found
  int first_use_;           // of the rings, by the item's entry 0
  int order_at_;            // of the tiles that `order_` holds, counted in steps
  StepOrder order_;         // of the tiles of the step behind `next_`
  int item_use_ = 0;        // of the ring of items, modulo its period
  int mask_use_ = 0;        // of the ring of column masks, by the item's first column tile
  bool unsettled_ = false;  // an output may still be read from the buffer of queries
};

}  // namespace minference::kernels::cuda::sm90
