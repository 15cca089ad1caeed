#pragma once

#include "cuda/math.cuh"
#include "cuda/tma.cuh"
#include "cuda/wgmma.cuh"
#include "kernels/attention/cuda/sm90/consumer_warp.cuh"
#include "kernels/attention/cuda/sm90/products.cuh"
#include "kernels/attention/cuda/sm90/softmax.cuh"
#include "kernels/attention/cuda/sm90/step_mask.cuh"
#include "kernels/attention/cuda/sm90/step_tiles.cuh"
#include "kernels/attention/cuda/sm90/store_output.cuh"

// A consumer warpgroup of the Hopper attention kernel: one half (64 rows) of every item of its CTA.
//
// It runs one software pipeline over all items. Each step issues the scores of one or two tiles and the product of
// the step before with its values, back to back, and does the softmax while that product and the other
// warpgroup's matrix products run. With queries in registers, the "next step" at an item's end is the next item's
// first, so the tensor cores never drain. The two warpgroups take turns at issuing.
namespace minference::kernels::cuda::sm90 {

template <class Config>
class Consumer {
  using Mask = StepMask<Config>;
  static constexpr int kStepTiles = Config::kStepTiles;

 public:
  __device__ __forceinline__ Consumer(SharedMemory<Config>& shared, const Plan& plan, const CUtensorMap& out,
                                      float scale_log2, base::RowsView lse)
      : scale_log2_(scale_log2), warp_{shared, plan}, store_(out, lse) {
    products_.set_operands(warp_);
  }

  __device__ __forceinline__ void run() {
    using minference::cuda::warp_uniform;
    warp_.wait_for_item();
    if (warp_uniform(item().head) < 0) return;
    if (warp_.half == 1) minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfLowerHalf);
    if constexpr (Config::kQueryInRegisters) {
      products_.load_query(warp_);
      if (warp_.lane() == 0) warp_.shared.query_empty.arrive();
    }
    StepTiles now = run_first_step(0);
    while (true) {
      const int plain = warp_uniform(item().plain_steps[warp_.half]);
      int step = 1;
#pragma unroll 1
      for (; step < plain; ++step) {
        const StepTiles before = now;
        now = tiles_.next();
        run_step<false>(step, now, before);
      }
      tiles_.add_columns(warp_, step);
#pragma unroll 1
      for (const int steps = steps_of(warp_.half); step < steps; ++step) {
        const StepTiles before = now;
        now = tiles_.next();
        run_step<true>(step, now, before);
      }
      const bool is_shorter = turns_of(warp_.half) < turns_of(1 - warp_.half);
      if constexpr (Config::kQueryInRegisters) {
        if (is_shorter) pass_turn();
      }

      const int head = item().head, row = item().first_row + warp_.first_row();
      const int column_tiles = warp_uniform(item().column_tiles());
      const int next_use = use_after(tiles_.first_use(), warp_uniform(item().num_entries) + column_tiles);
      masks_.leave_item(column_tiles);
      warp_.next_item();
      const StepTiles before = now;
      if constexpr (Config::kQueryInRegisters) {
        const Softmax done = softmax_;
        store_.settle(warp_);
        warp_.wait_for_item();
        if (warp_uniform(item().head) < 0) {
          run_last_product(before);
          store_.store(warp_, products_.output, done, head, row);
          break;
        }
        products_.load_query(warp_);
        now = tiles_.begin_item(warp_, next_use);
        issue(now, before);
        tiles_.find_next(warp_, 1);
        const Mask mask = masks_.of(warp_, 0, now);
        wait_for_scores();
        finish_first_softmax(now, mask);
        finish_product(before);
        store_.store(warp_, products_.output, done, head, row);
        products_.clear_output();
        products_.pack_weights();
      } else {
        run_last_product(before);
        if (is_shorter) pass_turn();
        // All of the half's scores are there: their rows of queries may be written over.
        minference::cuda::named_barrier_sync<kWarpgroup>(kLowerHalf + warp_.half);
        store_.store(warp_, products_.output, softmax_, head, row);
        store_.settle(warp_);
        warp_.wait_for_item();
        if (warp_uniform(item().head) < 0) break;
        now = run_first_step(next_use);
      }
    }
    store_.finish(warp_);
  }

 private:
  __device__ __forceinline__ const Item& item() const {
    return warp_.item();
  }

  __device__ __forceinline__ int steps_of(int half) const {
    return minference::cuda::warp_uniform((item().tiles[half] + item().column_tiles() + kStepTiles - 1) /
                                          kStepTiles);
  }

  // ---- Turns

  __device__ __forceinline__ int turns_of(int half) const {
    if constexpr (Config::kQueryInRegisters) return steps_of(half);
    return steps_of(half) + lower_late(half);
  }
  __device__ __forceinline__ int lower_late(int half) const {
    return half == 0 ? minference::cuda::warp_uniform(item().lower_late) : 0;
  }

  __device__ __forceinline__ void wait_for_turn() const {
    minference::cuda::named_barrier_sync<2 * kWarpgroup>(kTurnOfLowerHalf + recomputed(warp_.half));
  }
  __device__ __forceinline__ void give_turn() const {
    minference::cuda::named_barrier_arrive<2 * kWarpgroup>(kTurnOfUpperHalf - recomputed(warp_.half));
  }
  __device__ __forceinline__ void pass_turn() {
    wait_for_turn();
    give_turn();
  }

  // ---- Steps

  // An item's first step where no product is left to be issued with it. Returns its tiles.
  __device__ __forceinline__ StepTiles run_first_step(int first_use) {
    using namespace minference::cuda;
    const StepTiles now = tiles_.begin_item(warp_, first_use);
    if constexpr (!Config::kQueryInRegisters) {
      if (lower_late(warp_.half) != 0) pass_turn();
    }
    wait_for_turn();
    wait_for_tiles<Config>(warp_.shared.key_full, now);
    wgmma_fence();
    products_.issue_scores(now);
    wgmma_commit();
    give_turn();
    wgmma_wait<0>();
    wgmma_pin(products_.scores);
    tiles_.find_next(warp_, 1);
    finish_first_softmax(now, masks_.of(warp_, 0, now));
    products_.clear_output();
    products_.pack_weights();
    return now;
  }

  // An item's last product where no scores go before it.
  __device__ __forceinline__ void run_last_product(StepTiles before) {
    using namespace minference::cuda;
    wait_for_turn();
    wait_for_tiles<Config>(warp_.shared.value_full, before);
    wgmma_fence();
    products_.issue_product(before);
    wgmma_commit();
    give_turn();
    finish_product(before);
  }

  // One step that is not an item's first.
  template <bool Masked>
  __device__ __forceinline__ void run_step(int number, StepTiles now, StepTiles before) {
    using T = typename Config::T;
    issue(now, before);
    tiles_.find_next(warp_, number + 1);
    Mask mask;
    if constexpr (Masked) {
      mask = masks_.of(warp_, number, now);
      tiles_.add_columns(warp_, number + 1);
    }
    wait_for_scores();
    if constexpr (Masked) mask.apply_to(products_.scores);
    float part[2], factor[2];
    softmax_.exponentials(products_.scores, scale_log2_, part);
    // Uniform in the warp but not in the warpgroup, so no wgmma instruction may stand in the branch.
    const bool out_of_range =
        __any_sync(minference::cuda::kAllLanes, !(fmaxf(part[0], part[1]) <= kLargestSum<T>));
    if (out_of_range) {
      products_.compute_scores_again(warp_, now);
      if constexpr (Masked) mask.apply_to(products_.scores);
      softmax_.raise(products_.scores, scale_log2_, factor);
      softmax_.exponentials(products_.scores, scale_log2_, part);
    }
    if (out_of_range) __syncwarp();  // all lanes have read the tiles
    release_tiles<Config>(warp_.shared.key_empty, now);
    softmax_.sum[0] += part[0];
    softmax_.sum[1] += part[1];
    finish_product(before);
    if (out_of_range) products_.scale_output(factor);
    products_.pack_weights();
  }

  // Issues the scores of a step and the product of the one before.
  //
  // A barrier's parity tells one fill of a slot from the next, not from the one after. The fill before the one
  // waited for must therefore have arrived, and if it was the other half's alone, only the other half knows:
  // paired_lists_test.cc shows that it has had its turn with that tile by then.
  __device__ __forceinline__ void issue(StepTiles now, StepTiles before) {
    using namespace minference::cuda;
    if constexpr (Config::kPairs) wait_for_tiles<Config>(warp_.shared.key_full, now);
    wait_for_turn();
    if constexpr (!Config::kPairs) wait_for_tiles<Config>(warp_.shared.key_full, now);
    wgmma_fence();
    products_.issue_scores(now);
    wgmma_commit();
    wait_for_tiles<Config>(warp_.shared.value_full, before);
    wgmma_fence();
    products_.issue_product(before);
    wgmma_commit();
    give_turn();
  }

  __device__ __forceinline__ void wait_for_scores() {
    minference::cuda::wgmma_wait<1>();
    minference::cuda::wgmma_pin(products_.scores);
  }

  __device__ __forceinline__ void finish_first_softmax(StepTiles now, const Mask& mask) {
    mask.apply_to(products_.scores);
    softmax_.begin(products_.scores, scale_log2_);
    softmax_.exponentials(products_.scores, scale_log2_, softmax_.sum);
    release_tiles<Config>(warp_.shared.key_empty, now);
  }

  __device__ __forceinline__ void finish_product(StepTiles before) {
    using namespace minference::cuda;
    wgmma_wait<0>();
    wgmma_pin(products_.output);
    release_tiles<Config>(warp_.shared.value_empty, before);
    store_.settle(warp_);
  }

  const float scale_log2_;
  Products<Config> products_;
  Softmax softmax_;
  TileWalk<Config> tiles_;
  ConsumerWarp<Config> warp_;
  StepMasks<Config> masks_;
  OutputStore<Config> store_;
};

}  // namespace minference::kernels::cuda::sm90
