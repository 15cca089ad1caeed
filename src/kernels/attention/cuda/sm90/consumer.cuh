#pragma once

#include <type_traits>

#include "cuda/math.cuh"
#include "cuda/tma.cuh"
#include "cuda/wgmma.cuh"
#include "kernels/attention/cuda/sm90/config.h"
#include "kernels/attention/cuda/sm90/softmax.cuh"

// A consumer warpgroup of the Hopper attention kernel: one half (64 rows) of every item of its CTA.
//
// It runs one software pipeline over all items. Each step issues the scores of two tiles and the product of
// the step before with its values, back to back, and does the softmax while that product and the other
// warpgroup's matrix products run; at an item's end the "next step" is the next item's first, so the tensor
// cores never drain. The two warpgroups take turns at issuing.
namespace minference::kernels::cuda::sm90 {

// A step's two tiles, as uses of the rings of keys and values; the same one twice when the second is absent.
struct StepTiles {
  int first, second;
};

// The tiles that a half computes of one item, two a step. Steps are asked for in order, one ahead of the step
// that runs, so that nothing waits for what it takes to find them.
template <bool Pairs>
class HalfItem {
 public:
  __device__ __forceinline__ void begin(const Item& item, int half, int first_use) {
    using minference::cuda::warp_uniform;
    tiles_ = warp_uniform(item.tiles[half]);
    total_ = tiles_ + warp_uniform(item.column_tiles());
    plain_steps_ = warp_uniform(item.plain_steps[half]);
    first_tile_ = first_use;
    after_ = use_after(first_use, warp_uniform(item.num_entries) + warp_uniform(item.column_tiles()));
    if constexpr (!Pairs) {
      order_at_ = item.order_at / 2;
      ahead_ = {0, item.second};
      first_tile_ += half == 0 ? warp_uniform(item.lead) : 0;
      first_column_ = first_use + warp_uniform(item.num_entries) - tiles_;
    }
  }

  __device__ __forceinline__ int steps() const { return (total_ + 1) / 2; }
  // Steps [1, plain_steps()) need no mask.
  __device__ __forceinline__ int plain_steps() const { return plain_steps_; }
  // The first use by the next item.
  __device__ __forceinline__ int use_behind() const { return after_; }

  __device__ __forceinline__ StepTiles step(int number, const Plan& plan) {
    using minference::cuda::warp_uniform;
    const int j = 2 * number;
    if constexpr (Pairs) {
      const int first = use_after(first_tile_, j);  // even, as is every ring's size
      return {first, first + 1};
    } else {
      const int first = use_after(j < tiles_ ? first_tile_ + warp_uniform(ahead_.x) : first_column_ + j, 0);
      const int second =
          use_after(j + 1 < tiles_ ? first_tile_ + warp_uniform(ahead_.y) : first_column_ + j + 1, 0);
      if (j + 2 < tiles_) ahead_ = __ldg(reinterpret_cast<const int2*>(plan.order) + ++order_at_);
      return {first, j + 1 < total_ ? second : first};
    }
  }

 private:
  int tiles_, total_, plain_steps_;
  int first_tile_;    // use of the rings by entry 0, plus the half's lead
  int first_column_;  // use of the rings by the first column tile, less `tiles_`
  int after_;
  int order_at_;  // of the pair of tiles that `ahead_` holds
  int2 ahead_;    // order of the next step's tiles
};

template <class Config>
class Consumer {
  using T = typename Config::T;
  static constexpr int kOutputs = Config::kHeadDim / 2;
  using KeyUse = RingPosition<Config::kKeySlots>;
  using ValueUse = RingPosition<Config::kValueSlots>;

 public:
  __device__ __forceinline__ Consumer(SharedMemory<Config>& shared, const Plan& plan, const CUtensorMap& out,
                                      float scale_log2, base::RowsView lse)
      : shared_(shared), plan_(plan), out_(out), scale_log2_(scale_log2), lse_(lse) {
    // A vote, so that the compiler knows that every address made from it is uniform.
    half_ = __any_sync(minference::cuda::kAllLanes, threadIdx.x >= 2 * kWarpgroup) ? 1 : 0;
    lane_ = static_cast<int>(threadIdx.x % 32);
    warp_row_ = half_ * kHalfRows + static_cast<int>(threadIdx.x / 32 % kHalfWarps) * kWarpRows;
    query_row_ =
        minference::cuda::shared_address(shared.query) + (warp_row_ + lane_ % 16) * kPanelRowBytes;
    key_operand_ = minference::cuda::wgmma_operand(minference::cuda::shared_address(shared.key[0][0]));
    value_operand_ = minference::cuda::wgmma_operand(minference::cuda::shared_address(shared.value[0][0]),
                                                     Config::kValuePanelStride);
  }

  __device__ __forceinline__ void run() {
    using minference::cuda::warp_uniform;
    if (half_ == 0) minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfLowerHalf);
    int use = 0;
    wait_for_item(use);
    if (warp_uniform(shared_.item[0].head) < 0) return;
    load_query();
    release_query();
    tiles_.begin(item(), half_, 0);
    StepTiles now = tiles_.step(0, plan_);
    next_ = tiles_.step(1, plan_);
    issue_first_scores(now);
    finish_first_softmax(now, item());
    pack_weights();
    while (true) {
      const int turns = steps_of_longer_half(item()), steps = tiles_.steps();
      int step = 1;
      const auto advance = [&](auto masked) {
        const StepTiles before = now;
        now = next_;
        run_step<decltype(masked)::value>(now, before, ++step);
      };
#pragma unroll 1
      for (const int plain = tiles_.plain_steps(); step < plain;) advance(std::false_type());
#pragma unroll 1
      while (step < steps) advance(std::true_type());
      if (steps < turns) pass_turn();

      const int head = item().head, row = item().first_row + warp_row_;
      mask_use_ = use_after(mask_use_, warp_uniform(item().column_tiles()));
      const Softmax done = softmax_;
      settle_store();
      use = use_after(use, 1);
      wait_for_item(use);
      const StepTiles before = now;
      if (warp_uniform(item().head) < 0) {
        wait_for_values(before);
        minference::cuda::wgmma_fence();
        issue_product(before);
        minference::cuda::wgmma_commit();
        minference::cuda::wgmma_wait<0>();
        minference::cuda::wgmma_pin(output_);
        store(done, head, row);
        break;
      }
      load_query();
      tiles_.begin(item(), half_, tiles_.use_behind());
      now = tiles_.step(0, plan_);
      issue(now, before, 1);
      finish_first_softmax(now, item());
      finish_product(before);
      accumulate_ = 0;
      store(done, head, row);
      pack_weights();
      unsettled_ = true;
    }
    if (lane_ == 0) minference::cuda::tma_store_wait();
  }

 private:
  __device__ __forceinline__ const Item& item() const {
    return shared_.item[buffer_];
  }

  __device__ __forceinline__ int steps_of_longer_half(const Item& of) const {
    const int tiles = max(of.tiles[0], of.tiles[1]) + of.column_tiles();
    return minference::cuda::warp_uniform((tiles + 1) / 2);
  }

  __device__ __forceinline__ void wait_for_item(int use) {
    const RingPosition<kItemBuffers> at(use);
    shared_.item_full[at.slot].wait(at.parity);
    buffer_ = at.slot;
  }

  __device__ __forceinline__ void wait_for_keys(StepTiles tiles) {
    const KeyUse first(tiles.first), second(tiles.second);
    minference::cuda::wait_for_both(shared_.key_full[first.slot], first.parity, shared_.key_full[second.slot],
                                    second.parity);
  }

  __device__ __forceinline__ void wait_for_values(StepTiles tiles) {
    const ValueUse first(tiles.first), second(tiles.second);
    minference::cuda::wait_for_both(shared_.value_full[first.slot], first.parity,
                                    shared_.value_full[second.slot], second.parity);
  }

  __device__ __forceinline__ void release_keys(StepTiles tiles) {
    if (lane_ == 0) {
      shared_.key_empty[KeyUse(tiles.first).slot].arrive();
      if (tiles.second != tiles.first) shared_.key_empty[KeyUse(tiles.second).slot].arrive();
    }
  }

  // This warp's rows of the item's queries, as wgmma takes them.
  __device__ __forceinline__ void load_query() {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      const int chunk = (2 * (k % 4) + lane_ / 16) ^ lane_ % 8;  // of 8 elements, swizzled
      minference::cuda::load_matrices(reinterpret_cast<std::uint32_t(&)[4]>(query_[4 * k]),
                                      query_row_ + k / 4 * Config::kQueryPanelBytes + (chunk << 4));
    }
    __syncwarp();
  }

  __device__ __forceinline__ void release_query() {
    if (lane_ == 0) shared_.query_empty.arrive();
  }

  // scores = query * keys^T. Two tiles in neighbouring slots make one operand, so that queries are read once.
  __device__ __forceinline__ void issue_scores(StepTiles tiles) {
    using namespace minference::cuda;
    const std::uint32_t first =
        key_operand_ + warp_uniform(KeyUse(tiles.first).slot) * wgmma_operand_step(kTilePanelBytes);
    const std::uint32_t second =
        key_operand_ + warp_uniform(KeyUse(tiles.second).slot) * wgmma_operand_step(kTilePanelBytes);
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      const std::uint32_t key = k / 4 * wgmma_operand_step(Config::kKeyPanelStride) + wgmma_operand_step(k % 4 * 32);
      const std::uint32_t* query = query_ + 4 * k;
      if constexpr (Config::kPairs) {
        wgmma_registers_rows_along_k<T, 2 * kTileKeys>(scores_, query, wgmma_descriptor(first + key), k != 0);
      } else {
        wgmma_registers_rows_along_k<T, kTileKeys>(scores_, query, wgmma_descriptor(first + key), k != 0);
        wgmma_registers_rows_along_k<T, kTileKeys>(scores_ + kTileScores, query, wgmma_descriptor(second + key),
                                                   k != 0);
      }
    }
  }

  // output += weights * values.
  __device__ __forceinline__ void issue_product(StepTiles tiles) {
    using namespace minference::cuda;
    const std::uint32_t operand[2] = {
        value_operand_ + warp_uniform(ValueUse(tiles.first).slot) * wgmma_operand_step(kTilePanelBytes),
        value_operand_ + warp_uniform(ValueUse(tiles.second).slot) * wgmma_operand_step(kTilePanelBytes)};
#pragma unroll
    for (int k = 0; k < 2 * kTileKeys / 16; ++k) {
      const std::uint32_t value = operand[k / 4] + wgmma_operand_step(k % 4 * 16 * kPanelRowBytes);
      wgmma_registers<T, Config::kHeadDim>(output_, weights_ + 4 * k, wgmma_descriptor(value),
                                           k != 0 ? 1 : accumulate_);
    }
  }

  __device__ __forceinline__ void issue_first_scores(StepTiles now) {
    using namespace minference::cuda;
    wait_for_keys(now);
    wgmma_fence();
    issue_scores(now);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(scores_);
  }

  // Issues the scores of a step and the product of the one before, finds the tiles of step `next`, and returns
  // when the scores are there.
  __device__ __forceinline__ void issue(StepTiles now, StepTiles before, int next) {
    using namespace minference::cuda;
    wait_for_keys(now);
    named_barrier_sync<2 * kWarpgroup>(kTurnOfLowerHalf + half_);
    wgmma_fence();
    issue_scores(now);
    wgmma_commit();
    wait_for_values(before);
    wgmma_fence();
    issue_product(before);
    wgmma_commit();
    named_barrier_arrive<2 * kWarpgroup>(kTurnOfUpperHalf - half_);
    next_ = tiles_.step(next, plan_);
    wgmma_wait<1>();
    wgmma_pin(scores_);
    accumulate_ = 1;
  }

  __device__ __forceinline__ void pass_turn() {
    minference::cuda::named_barrier_sync<2 * kWarpgroup>(kTurnOfLowerHalf + half_);
    minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfUpperHalf - half_);
  }

  __device__ __forceinline__ void finish_product(StepTiles before) {
    using namespace minference::cuda;
    wgmma_wait<0>();
    wgmma_pin(output_);
    if (lane_ == 0) {
      shared_.value_empty[ValueUse(before.first).slot].arrive();
      if (before.second != before.first) shared_.value_empty[ValueUse(before.second).slot].arrive();
    }
    settle_store();
  }

  // One step that is not an item's first.
  template <bool Masked>
  __device__ __forceinline__ void run_step(StepTiles now, StepTiles before, int next) {
    issue(now, before, next);
    if constexpr (Masked) mask(now, item());
    float part[2], factor[2];
    softmax_.exponentials(scores_, scale_log2_, part);
    // Uniform in the warp but not in the warpgroup, so no wgmma instruction may stand in the branch.
    const bool out_of_range =
        __any_sync(minference::cuda::kAllLanes, !(fmaxf(part[0], part[1]) <= kLargestSum<T>));
    if (out_of_range) {
      scores_again<Config, 0>(scores_, query_, key_tile(now.first));
      scores_again<Config, 1>(scores_, query_, key_tile(now.second));
      if constexpr (Masked) mask(now, item());
      softmax_.raise(scores_, scale_log2_, factor);
      softmax_.exponentials(scores_, scale_log2_, part);
    }
    if constexpr (Masked) {
      release_step(now);
    } else {
      release_keys(now);
    }
    softmax_.sum[0] += part[0];
    softmax_.sum[1] += part[1];
    finish_product(before);
    if (out_of_range) scale_output(factor);
    pack_weights();
  }

  __device__ __forceinline__ void finish_first_softmax(StepTiles now, const Item& of) {
    mask(now, of);
    softmax_.begin(scores_);
    softmax_.exponentials(scores_, scale_log2_, softmax_.sum);
    release_step(now);
  }

  __device__ __forceinline__ std::uint32_t key_tile(int use) const {
    return minference::cuda::shared_address(shared_.key[0][KeyUse(use).slot]);
  }

  __device__ __forceinline__ void release_step(StepTiles now) {
    const int first = shared_.key_start[KeyUse(now.first).slot],
              second = shared_.key_start[KeyUse(now.second).slot];
    __syncwarp();
    release_mask(first);
    if (now.second != now.first) release_mask(second);
    release_keys(now);
  }

  __device__ __forceinline__ void release_mask(int start) {
    if (start >= kFirstColumnTile) {
      const RingPosition<kColumnMasks> at(use_after(mask_use_, start - kFirstColumnTile));
      if (lane_ == 0) shared_.mask_empty[at.slot].arrive();
    }
  }

  __device__ __forceinline__ void mask(StepTiles now, const Item& of) {
    mask_one<0>(shared_.key_start[KeyUse(now.first).slot], of);
    if (now.second == now.first) {
      mask_tile<1>(scores_);
    } else {
      mask_one<1>(shared_.key_start[KeyUse(now.second).slot], of);
    }
  }

  template <int Tile>
  __device__ __forceinline__ void mask_one(int start, const Item& of) {
    if (start >= kFirstColumnTile) {
      mask_column_tile<Tile>(start - kFirstColumnTile, of);
      return;
    }
    const int warp_position = of.first_row + warp_row_ + plan_.kv_len - plan_.q_len;
    const WindowRule window = {of.local, of.sink};
    if (sees_all(warp_position, kWarpRows, window, start, kTileKeys)) return;
    const int position = warp_position + lane_ / 4, first_key = start + 2 * (lane_ % 4);
    const VisibleKeys visible[2] = {VisibleKeys::of(position, window, first_key),
                                    VisibleKeys::of(position + 8, window, first_key)};
    mask_keys<Tile>(scores_, visible);
  }

  template <int Tile>
  __device__ __forceinline__ void mask_column_tile(int tile, const Item& of) {
    const RingPosition<kColumnMasks> at(use_after(mask_use_, tile));
    shared_.mask_full[at.slot].wait(at.parity);
    const ColumnMask& mask = shared_.column_mask[at.slot];
    const int first = 2 * (lane_ % 4);
    if (mask.keep[half_] != ~std::uint64_t{0}) mask_columns<Tile>(scores_, mask.keep[half_] >> first);
    if (mask.partial[half_] != 0) mask_late_columns<Tile>(tile, of);
  }

  // Columns behind some row of the half: rows before them do not see them.
  template <int Tile>
  __device__ __forceinline__ void mask_late_columns(int tile, const Item& of) {
    const std::int32_t* columns =
        plan_.columns + static_cast<std::int64_t>(of.head) * plan_.column_capacity + tile * kTileKeys;
    const int position = of.first_row + warp_row_ + lane_ / 4 + plan_.kv_len - plan_.q_len;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int n = 8 * j + 2 * (lane_ % 4) + e % 2;
        const bool late = tile * kTileKeys + n < of.num_columns && __ldg(columns + n) > position + e / 2 * 8;
        if (late) scores_[kTileScores * Tile + 4 * j + e] = -INFINITY;
      }
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

  // Normalises the output, writes it over this warp's rows of the queries and sends it from there.
  __device__ __forceinline__ void store(const Softmax& softmax, int head, int row) {
    using namespace minference::cuda;
    const float sum[2] = {softmax.row_sum(0), softmax.row_sum(1)};
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) inverse[r] = sum[r] > 0.0f ? __fdividef(1.0f, sum[r]) : 0.0f;
    std::uint8_t* rows = shared_.query + warp_row_ * kPanelRowBytes;
#pragma unroll
    for (int j = 0; j < kOutputs / 8; ++j) {
      const int chunk = (2 * j % 8 + lane_ / 16) ^ lane_ % 8;
      const float* x = output_ + 8 * j;
      store_matrices(
          query_row_ + j / 4 * Config::kQueryPanelBytes + (chunk << 4),
          pack<T>(x[0] * inverse[0], x[1] * inverse[0]), pack<T>(x[2] * inverse[1], x[3] * inverse[1]),
          pack<T>(x[4] * inverse[0], x[5] * inverse[0]), pack<T>(x[6] * inverse[1], x[7] * inverse[1]));
    }
    fence_async_shared();
    __syncwarp();
    if (lane_ == 0) {
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        tma_store(out_, rows + panel * Config::kQueryPanelBytes, panel * kPanelDim, row, head);
      }
      tma_store_commit();
    }
    if (lse_.data != nullptr && lane_ % 4 == 0) {
      constexpr float kLn2 = 0.693147180559945f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = row + lane_ / 4 + 8 * r;
        const float lse = (softmax.reference[r] * scale_log2_ + __log2f(sum[r])) * kLn2;
        if (at < plan_.q_len) lse_.data[head * lse_.head_stride + at * lse_.row_stride] = lse;
      }
    }
  }

  // Gives back the rows of queries from which the output has been sent.
  __device__ __forceinline__ void settle_store() {
    if (!unsettled_) return;
    if (lane_ == 0) {
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
  int half_, lane_, warp_row_;
  std::uint32_t query_row_;  // shared address of the lane's row, for load_matrices and store_matrices
  std::uint32_t key_operand_, value_operand_;

  std::uint32_t query_[Config::kHeadDim / 4];
  float scores_[kStepScores];
  std::uint32_t weights_[kStepScores / 2];
  float output_[kOutputs];
  Softmax softmax_;
  int accumulate_ = 0;  // 0: the next product starts an item's output
  int buffer_ = 0;
  int mask_use_ = 0;  // uses of the ring of column masks before this item
  bool unsettled_ = false;  // an output may still be read from the buffer of queries
  HalfItem<Config::kPairs> tiles_;
  StepTiles next_;  // those of the step after the one that runs
};

}  // namespace minference::kernels::cuda::sm90
