#pragma once

#include "cuda/math.cuh"
#include "cuda/wgmma.cuh"
#include "kernels/attention/cuda/sm90/consumer_warp.cuh"
#include "kernels/attention/cuda/sm90/step_tiles.cuh"

// A consumer warpgroup's two matrix products, scores = query * keys^T and output += weights * values, and the
// registers that they work on.
namespace minference::kernels::cuda::sm90 {

// A thread's part of 16 elements of its warp's queries, as mma and wgmma take them from registers.
struct QueryPart {
  std::uint32_t words[4];
};

// A tile's scores once more, for one warp's 16 rows: wgmma would need the whole warpgroup. query(k): elements 16 k to
// 16 k + 15 of head_dim; key_tile: shared address of the tile.
template <class Config, int Tile, class Query>
__device__ __forceinline__ void scores_again(float (&scores)[Config::kStepScores], Query query,
                                             std::uint32_t key_tile) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < kTileScores; ++i) scores[kTileScores * Tile + i] = 0.0f;
  const std::uint32_t key_row = key_tile + (lane % 8 + lane / 16 * 8) * kPanelRowBytes;
#pragma unroll
  for (int k = 0; k < Config::kHeadDim / 16; ++k) {
    // The swizzle exchanges chunk c (8 elements) of row r with chunk c ^ r % 8.
    const int chunk = (2 * (k % 4) + lane / 8 % 2) ^ lane % 8;
    const QueryPart part = query(k);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t key[4];
      minference::cuda::load_matrices(
          key, key_row + k / 4 * Config::kKeyPanelStride + 16 * j * kPanelRowBytes + (chunk << 4));
      float* d = scores + kTileScores * Tile + 8 * j;
      minference::cuda::mma_m16n8k16<typename Config::T>(d, part.words, key[0], key[1]);
      minference::cuda::mma_m16n8k16<typename Config::T>(d + 4, part.words, key[2], key[3]);
    }
  }
}

template <class Config>
class Products {
  using T = typename Config::T;
  using Warp = ConsumerWarp<Config>;
  using KeyUse = RingPosition<Config::kKeySlots>;
  using ValueUse = RingPosition<Config::kValueSlots>;
  static constexpr int kStepTiles = Config::kStepTiles;
  static constexpr int kStepScores = Config::kStepScores;
  static constexpr int kOutputs = Config::kHeadDim / 2;

 public:
  float scores[kStepScores];
  float output[kOutputs];

  __device__ __forceinline__ void set_operands(const Warp& warp) {
    using namespace minference::cuda;
    key_operand_ = wgmma_operand(shared_address(warp.shared.key[0][0]));
    value_operand_ = wgmma_operand(shared_address(warp.shared.value[0][0]), Config::kValuePanelStride);
    if constexpr (!Config::kQueryInRegisters) {
      query_operand_ = wgmma_operand(shared_address(warp.shared.query)) +
                       warp.half * wgmma_operand_step(kHalfRows * kPanelRowBytes);
    }
  }

  // The item's queries, to registers.
  __device__ __forceinline__ void load_query(const Warp& warp) {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) query_[k] = load_query_part(warp, k);
    __syncwarp();
  }

  // Two tiles in neighbouring slots make one operand, so that queries are read once.
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
        wgmma_shared<T, kTileKeys>(scores, wgmma_descriptor(query), wgmma_descriptor(first + key), k != 0);
      } else if constexpr (Config::kPairs) {
        const std::uint32_t* query = query_[k].words;
        wgmma_registers_rows_along_k<T, 2 * kTileKeys>(scores, query, wgmma_descriptor(first + key), k != 0);
      } else {
        const std::uint32_t* query = query_[k].words;
        wgmma_registers_rows_along_k<T, kTileKeys>(scores, query, wgmma_descriptor(first + key), k != 0);
        wgmma_registers_rows_along_k<T, kTileKeys>(scores + kTileScores, query,
                                                   wgmma_descriptor(second + key), k != 0);
      }
    }
  }

  __device__ __forceinline__ void issue_product(StepTiles tiles) {
    using namespace minference::cuda;
    const std::uint32_t operand[2] = {
        value_operand_ + ValueUse(tiles.first()).slot * wgmma_operand_step(kTilePanelBytes),
        value_operand_ + ValueUse(tiles.second()).slot * wgmma_operand_step(kTilePanelBytes)};
#pragma unroll
    for (int k = 0; k < kStepTiles * kTileKeys / 16; ++k) {
      const std::uint32_t value = operand[k / 4] + wgmma_operand_step(k % 4 * 16 * kPanelRowBytes);
      wgmma_registers<T, Config::kHeadDim>(output, weights_ + 4 * k, wgmma_descriptor(value), 1);
    }
  }

  __device__ __forceinline__ void compute_scores_again(const Warp& warp, StepTiles tiles) {
    const auto query = [&](int k) { return query_part(warp, k); };
    scores_again<Config, 0>(scores, query, key_tile(warp, tiles.first()));
    if constexpr (kStepTiles == 2) scores_again<Config, 1>(scores, query, key_tile(warp, tiles.second()));
  }

  // Rounds the scores, which are exponentials by now, to the weights of the next product.
  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kStepScores / 2; ++i) {
      weights_[i] = minference::cuda::pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
  }

  __device__ __forceinline__ void scale_output(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) output[i] *= factor[i / 2 % 2];
  }

  __device__ __forceinline__ void clear_output() {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) output[i] = 0.0f;
  }

 private:
  // This warp's rows of the item's queries, 16 elements from 16 k on.
  static __device__ __forceinline__ QueryPart load_query_part(const Warp& warp, int k) {
    const int chunk = (2 * (k % 4) + warp.lane() / 16) ^ warp.lane() % 8;  // of 8 elements, swizzled
    QueryPart part;
    minference::cuda::load_matrices(part.words,
                                    warp.query_row() + k / 4 * Config::kQueryPanelBytes + (chunk << 4));
    return part;
  }

  __device__ __forceinline__ QueryPart query_part(const Warp& warp, int k) const {
    if constexpr (Config::kQueryInRegisters) return query_[k];
    return load_query_part(warp, k);
  }

  static __device__ __forceinline__ std::uint32_t key_tile(const Warp& warp, int use) {
    return minference::cuda::shared_address(warp.shared.key[0][KeyUse(use).slot]);
  }

  std::uint32_t key_operand_, value_operand_, query_operand_;
  QueryPart query_[Config::kQueryInRegisters ? Config::kHeadDim / 16 : 1];
  std::uint32_t weights_[kStepScores / 2];
};

}  // namespace minference::kernels::cuda::sm90
