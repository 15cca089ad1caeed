#pragma once

#include "base/arithmetic.h"
#include "cuda/copy_async.cuh"
#include "cuda/math.cuh"
#include "kernels/estimate/cuda/device_words.cuh"
#include "kernels/estimate/cuda/streams.h"

namespace minference::kernels::cuda {

// Heads of one KV head that a CTA takes together; -1 where there is none.
struct HeadSet {
  std::int16_t kv_head;
  std::int16_t heads[2];
};

// Rows of 16-bit elements; strides in bytes.
struct ByteRows {
  const char* data;
  std::int64_t head_stride, row_stride;
};

// HeadDim: the call's, padded with zeros.
template <class ElementType, int HeadDim, int NumHeads>
struct ScoreShape {
  using Element = ElementType;
  static constexpr int kHeads = NumHeads;
  static constexpr int kWarps = HeadDim <= 128 ? 4 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStreams = kWarps / kHeads;  // warp w: head w % kHeads, stream w / kHeads
  static constexpr int kChunks = HeadDim / 8;       // of 16 bytes, in a row
  static constexpr int kRowBytes = 16 * base::round_up(kChunks, 8);
  static constexpr int kProductSteps = HeadDim / 16;
  static constexpr int kStages = 2;
};

// In shared memory chunk c of row r stands at c ^ (r % 8), so that eight rows' chunks c lie in all banks.
template <class Shape>
struct ScoreMemory {
  alignas(128) char query[Shape::kHeads][kQueryRows][Shape::kRowBytes];
  alignas(128) char key[Shape::kStages][Shape::kStreams][kStepKeys][Shape::kRowBytes];
};

// A CTA's walk over its streams: keys come in through a ring of two stages, one step ahead.
template <class Shape>
class ScoreLoop {
 public:
  __device__ ScoreLoop(ScoreMemory<Shape>& memory, const ByteRows& query, const ByteRows& key, int chunks,
                       std::int32_t q_len, const Streams& streams, const HeadSet& set, int first_stream)
      : memory_(memory),
        key_(key.data + set.kv_head * key.head_stride),
        key_row_stride_(key.row_stride),
        chunks_(chunks),
        streams_(streams),
        first_stream_(first_stream) {
    for (int h = 0; h < Shape::kHeads; ++h) {
      if (set.heads[h] < 0) continue;
      const char* rows = query.data + set.heads[h] * query.head_stride;
      copy_rows<kQueryRows>(memory.query[h], rows, query.row_stride, q_len - kQueryRows, 0, q_len, chunks);
    }
    load(0);
  }

  // Calls body(first key, scores) for every step of `stream`, in order. The warps of the CTA walk together;
  // `active` is false for those that have no head.
  template <class Body>
  __device__ __forceinline__ void walk(int stream, int head, bool active, Body&& body) {
    const int begin = streams_.begin(stream), end = streams_.end(stream);
    const int first_begin = streams_.begin(first_stream_);
    const int steps = base::divide_up(streams_.end(first_stream_) - first_begin, kStepKeys);
    for (int step = 0; step < steps; ++step) {
      minference::cuda::copy_async_wait<0>();
      __syncthreads();
      if (step + 1 < steps) load(step + 1);
      const int key = begin + step * kStepKeys;
      if (!active || key >= end) continue;
      StepScores<DeviceWords> scores;
      multiply(memory_.query[head], memory_.key[step % Shape::kStages][stream - first_stream_], scores);
      const int first_key = key - (streams_.kv_len - kQueryRows);
      if (first_key + kStepKeys - 1 > 0) scores.mask(first_key);
      body(key, scores);
    }
  }

 private:
  // Rows [first, first + Rows) of `source`, `chunks` of each; those outside [begin, end) become zero, and so does
  // what lies behind a row.
  template <int Rows>
  static __device__ __forceinline__ void copy_rows(char (*rows)[Shape::kRowBytes], const char* source,
                                                   std::int64_t row_stride, int first, int begin, int end,
                                                   int chunks) {
    for (int i = threadIdx.x; i < Rows * Shape::kChunks; i += Shape::kThreads) {
      const int row = i / Shape::kChunks, chunk = i % Shape::kChunks;
      const bool present = first + row >= begin && first + row < end && chunk < chunks;
      const char* from = present ? source + (first + row) * row_stride + chunk * 16 : source;
      minference::cuda::copy_async(minference::cuda::shared_address(rows[row]) + (chunk ^ row % 8) * 16, from,
                                   present);
    }
  }

  __device__ __forceinline__ void load(int step) {
    for (int s = 0; s < Shape::kStreams; ++s) {
      const int begin = streams_.begin(first_stream_ + s), end = streams_.end(first_stream_ + s);
      if (begin + step * kStepKeys >= end) break;
      copy_rows<kStepKeys>(memory_.key[step % Shape::kStages][s], key_, key_row_stride_,
                           begin + step * kStepKeys, begin, end, chunks_);
    }
    minference::cuda::copy_async_commit();
  }

  static __device__ __forceinline__ void multiply(const char (*query)[Shape::kRowBytes],
                                                  const char (*key)[Shape::kRowBytes],
                                                  StepScores<DeviceWords>& scores) {
    constexpr int kKeyTiles = kStepKeys / 16;
    float sums[kKeyTiles][kQueryTiles][4] = {};
    const int lane = DeviceWords::lane();
    const int swizzle = lane % 8;
    // ldmatrix: lane l names row l % 8 of matrix l / 8. Keys: (rows 0, 8) x (chunks 0, 1); queries: (chunks
    // 0, 1) x (rows 0, 8).
    const std::uint32_t key_rows = minference::cuda::shared_address(key[lane % 16]);
    const std::uint32_t query_rows = minference::cuda::shared_address(query[lane % 8 + lane / 16 * 8]);
    const int key_chunk = lane / 16, query_chunk = lane / 8 % 2;
#pragma unroll
    for (int k = 0; k < Shape::kProductSteps; ++k) {
      std::uint32_t keys[kKeyTiles][4];
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m)
        minference::cuda::load_matrices(
            keys[m], key_rows + m * 16 * Shape::kRowBytes + ((2 * k + key_chunk) ^ swizzle) * 16);
#pragma unroll
      for (int n = 0; n < kQueryTiles; n += 2) {
        std::uint32_t queries[4];
        minference::cuda::load_matrices(
            queries, query_rows + n * 8 * Shape::kRowBytes + ((2 * k + query_chunk) ^ swizzle) * 16);
#pragma unroll
        for (int m = 0; m < kKeyTiles; ++m) {
          using minference::cuda::mma_m16n8k16;
          mma_m16n8k16<typename Shape::Element>(sums[m][n], keys[m], queries[0], queries[1]);
          mma_m16n8k16<typename Shape::Element>(sums[m][n + 1], keys[m], queries[2], queries[3]);
        }
      }
    }
#pragma unroll
    for (int octet = 0; octet < kOctets; ++octet)
#pragma unroll
      for (int n = 0; n < kQueryTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) scores.at[octet][n][e] = sums[octet / 2][n][octet % 2 * 2 + e];
  }

  ScoreMemory<Shape>& memory_;
  const char* key_;
  std::int64_t key_row_stride_;
  int chunks_;  // of a row, of 16 bytes
  Streams streams_;
  int first_stream_;
};

}  // namespace minference::kernels::cuda
