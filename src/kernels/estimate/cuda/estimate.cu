// Two passes over the keys: the log-sum-exp of every row, then the sums of its probabilities.
// docs/kernels/select-sm90.md.
#include <numbers>

#include "base/arena.h"
#include "base/arithmetic.h"
#include "base/error.h"
#include "cuda/error.h"
#include "kernels/estimate/cuda/estimate_cuda.h"
#include "kernels/estimate/cuda/score_loop.cuh"

namespace minference::kernels::cuda {

namespace {

using base::Arena;
using minference::cuda::check;
using minference::cuda::Stream;

constexpr int kCombineThreads = 256;

// Passed by value, so that a captured graph keeps it.
struct HeadSets {
  HeadSet at[kMaxEstimatedHeads];
};

struct EstimateArguments {
  ByteRows query, key;
  std::int32_t chunks;  // of a row, of 16 bytes
  std::int32_t q_len;
  Streams streams;
  float scale;  // softmax_scale * log2(e)
  // [num_query_heads, streams, 64]: each row's reference and sum
  float2* statistics;
  float* lse;    // [num_query_heads, 64], in units of log 2; -kNoScore for rows before the first
  float* carry;  // [num_query_heads, streams, 64]: lane i of 63 is what offset kv_len - end - 1 - i misses
  float* column_sums;
  float* diagonal_sums;
  std::int64_t head_stride;
};

// Which warp of which CTA does what.
template <class Shape>
struct WarpTask {
  int head_slot, first_stream, stream, head;
  bool active;

  __device__ WarpTask(const HeadSet& set, const Streams& streams) {
    const int warp = minference::cuda::warp_uniform(static_cast<int>(threadIdx.x / 32));
    head_slot = warp % Shape::kHeads;
    first_stream = static_cast<int>(blockIdx.y) * Shape::kStreams;
    stream = first_stream + warp / Shape::kHeads;
    head = head_slot == 0 ? set.heads[0] : set.heads[1];
    active = head >= 0 && stream < streams.count;
  }

  __device__ std::int64_t place(const Streams& streams) const {
    return static_cast<std::int64_t>(head) * streams.count + stream;
  }
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 3)
    scan_kernel(const __grid_constant__ EstimateArguments arguments, const __grid_constant__ HeadSets sets) {
  extern __shared__ __align__(128) char shared[];
  auto& memory = *reinterpret_cast<ScoreMemory<Shape>*>(shared);
  const HeadSet set = sets.at[blockIdx.x];
  const WarpTask<Shape> task(set, arguments.streams);
  ScoreLoop<Shape> loop(memory, arguments.query, arguments.key, arguments.chunks, arguments.q_len,
                        arguments.streams, set, task.first_stream);
  RowStatistics<DeviceWords> rows;
  loop.walk(task.stream, task.head_slot, task.active,
            [&](int, const StepScores<DeviceWords>& scores) { rows.add(scores, arguments.scale); });
  if (!task.active) return;
  rows.merge();
  const int lane = DeviceWords::lane();
  if (lane >= 4) return;
  float2* out = arguments.statistics + task.place(arguments.streams) * kQueryRows;
#pragma unroll
  for (int n = 0; n < kQueryTiles; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) out[8 * n + 2 * lane + e] = {rows.reference[n][e], rows.sum[n][e]};
}

// Statistics of all streams -> lse. Thread t takes row t % 64 and every fourth stream.
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const __grid_constant__ EstimateArguments arguments,
                   const __grid_constant__ HeadSets sets) {
  constexpr int kParts = kCombineThreads / kQueryRows;
  __shared__ float references[kParts][kQueryRows];
  __shared__ double sums[kParts][kQueryRows];
  const int head = sets.at[blockIdx.x].heads[blockIdx.y];
  if (head < 0) return;
  const int row = static_cast<int>(threadIdx.x) % kQueryRows,
            part = static_cast<int>(threadIdx.x) / kQueryRows;
  const std::int64_t streams = arguments.streams.count;
  const float2* statistics = arguments.statistics + head * streams * kQueryRows + row;
  float reference = kNoScore;
  for (std::int64_t s = part; s < streams; s += kParts)
    reference = fmaxf(reference, statistics[s * kQueryRows].x);
  references[part][row] = reference;
  __syncthreads();
#pragma unroll
  for (int p = 0; p < kParts; ++p) reference = fmaxf(reference, references[p][row]);
  double sum = 0;
  for (std::int64_t s = part; s < streams; s += kParts) {
    const float2 stream = statistics[s * kQueryRows];
    sum += static_cast<double>(stream.y * exp2f(stream.x - reference));
  }
  sums[part][row] = sum;
  __syncthreads();
  if (part > 0) return;
#pragma unroll
  for (int p = 1; p < kParts; ++p) sum += sums[p][row];
  const bool present = row >= kQueryRows - arguments.q_len;
  arguments.lse[head * kQueryRows + row] = present ? reference + log2f(static_cast<float>(sum)) : -kNoScore;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 3)
    accumulate_kernel(const __grid_constant__ EstimateArguments arguments,
                      const __grid_constant__ HeadSets sets) {
  extern __shared__ __align__(128) char shared[];
  auto& memory = *reinterpret_cast<ScoreMemory<Shape>*>(shared);
  const HeadSet set = sets.at[blockIdx.x];
  const WarpTask<Shape> task(set, arguments.streams);
  ScoreLoop<Shape> loop(memory, arguments.query, arguments.key, arguments.chunks, arguments.q_len,
                        arguments.streams, set, task.first_stream);
  const int lane = DeviceWords::lane();
  const int key_of_lane = 8 * (lane % 4) + lane / 4;
  float lse[kQueryTiles][2] = {};
  if (task.active) {
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        lse[n][e] = arguments.lse[task.head * kQueryRows + 8 * n + 2 * (lane % 4) + e];
  }
  const Streams& streams = arguments.streams;
  const int begin = streams.begin(task.stream), end = streams.end(task.stream);
  float* column_sums = arguments.column_sums + task.head * arguments.head_stride;
  float* diagonal_sums = arguments.diagonal_sums + task.head * arguments.head_stride;
  float* carry = arguments.carry + task.place(streams) * kQueryRows;
  const auto write_diagonal = [&](int key, float sum) {
    const DiagonalPlace place = DiagonalPlace::of(key, begin, end, streams.kv_len);
    if (place.owned) {
      diagonal_sums[place.offset] = sum;
    } else if (place.carry >= 0) {
      carry[place.carry] = sum;
    }
  };

  PairSums<DeviceWords> pairs;
  loop.walk(task.stream, task.head_slot, task.active, [&](int first_key, StepScores<DeviceWords>& scores) {
    scores.weigh(arguments.scale, lse);
    const auto sums = pairs.add(scores);
    const int key = first_key + key_of_lane;
    if (key < end) column_sums[key] = sums.column;
    write_diagonal(key, sums.diagonal);
  });
  if (!task.active) return;
  const int drained = begin + base::round_up(end - begin, kStepKeys) + key_of_lane;
  write_diagonal(drained, pairs.drain());
  write_diagonal(drained + kStepKeys, pairs.drain());
}

// Adds to the diagonal sums what each stream left for those that its successor wrote.
__global__ void add_carries_kernel(const __grid_constant__ EstimateArguments arguments,
                                   const __grid_constant__ HeadSets sets) {
  const int head = sets.at[blockIdx.y].heads[blockIdx.z];
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int stream = at / kQueryRows, i = at % kQueryRows;
  const Streams& streams = arguments.streams;
  if (head < 0 || stream + 1 >= streams.count || i == kQueryRows - 1) return;
  const int offset = streams.kv_len - streams.end(stream) - 1 - i;
  if (offset < 0) return;
  arguments.diagonal_sums[head * arguments.head_stride + offset] +=
      arguments.carry[(static_cast<std::int64_t>(head) * streams.count + stream) * kQueryRows + i];
}

struct Launch {
  EstimateArguments arguments;
  HeadSets sets;
  int num_sets = 0;
};

template <class Kernel>
void launch_walk(Kernel kernel, const Launch& launch, int streams, int threads, int shared_bytes,
                 Stream stream) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "reserving shared memory");
  const dim3 grid(launch.num_sets, base::divide_up(launch.arguments.streams.count, streams));
  kernel<<<grid, threads, shared_bytes, stream>>>(launch.arguments, launch.sets);
  check(cudaGetLastError(), "launching the estimation");
}

template <class Shape>
void launch_estimate(const Launch& launch, Stream stream) {
  const Streams& streams = launch.arguments.streams;
  constexpr int kSharedBytes = sizeof(ScoreMemory<Shape>);
  static_assert(kSharedBytes <= 99 * 1024, "what a CTA of compute capability 8.6, 8.9 or 12.0 may have");
  launch_walk(scan_kernel<Shape>, launch, Shape::kStreams, Shape::kThreads, kSharedBytes, stream);
  combine_kernel<<<dim3(launch.num_sets, Shape::kHeads), kCombineThreads, 0, stream>>>(launch.arguments,
                                                                                       launch.sets);
  check(cudaGetLastError(), "launching the combination of rows");
  launch_walk(accumulate_kernel<Shape>, launch, Shape::kStreams, Shape::kThreads, kSharedBytes, stream);
  if (streams.count < 2) return;
  constexpr int kThreads = 256;
  const dim3 grid(base::divide_up(streams.count * kQueryRows, kThreads), launch.num_sets, Shape::kHeads);
  add_carries_kernel<<<grid, kThreads, 0, stream>>>(launch.arguments, launch.sets);
  check(cudaGetLastError(), "launching the diagonals' carries");
}

template <class Element, int HeadDim>
void launch_heads(const Launch& launch, bool grouped, Stream stream) {
  if (grouped) {
    launch_estimate<ScoreShape<Element, HeadDim, 2>>(launch, stream);
  } else {
    launch_estimate<ScoreShape<Element, HeadDim, 1>>(launch, stream);
  }
}

template <class Element>
void launch_head_dim(std::int64_t head_dim, const Launch& launch, bool grouped, Stream stream) {
  if (head_dim <= 64) return launch_heads<Element, 64>(launch, grouped, stream);
  if (head_dim <= 96) return launch_heads<Element, 96>(launch, grouped, stream);
  if (head_dim <= 128) return launch_heads<Element, 128>(launch, grouped, stream);
  launch_heads<Element, 256>(launch, grouped, stream);
}

void take_workspace(const DeviceEstimateCall& call, const Streams& streams, Arena& arena,
                    EstimateArguments& arguments) {
  const std::int64_t rows = call.query.heads * kQueryRows;
  arguments.statistics = arena.take<float2>(rows * streams.count);
  arguments.carry = arena.take<float>(rows * streams.count);
  arguments.lse = arena.take<float>(rows);
}

ByteRows byte_rows(const base::InputHeads& view) {
  const auto element = static_cast<std::int64_t>(base::size_of(view.dtype));
  return {static_cast<const char*>(view.data), view.head_stride * element, view.row_stride * element};
}

// The heads, in pairs within a KV head where the model has groups.
void list_sets(const DeviceEstimateCall& call, bool grouped, Launch& launch) {
  base::require(std::ssize(call.heads) <= kMaxEstimatedHeads, "heads",
                "must have at most 128 that are estimated", call.heads.size(), base::ErrorCode::unsupported);
  const std::int64_t group = call.query.heads / call.key.heads;
  for (const std::int32_t h : call.heads) {
    const auto kv_head = static_cast<std::int16_t>(h / group), head = static_cast<std::int16_t>(h);
    HeadSet* open = grouped && launch.num_sets > 0 ? &launch.sets.at[launch.num_sets - 1] : nullptr;
    if (open != nullptr && open->kv_head == kv_head && open->heads[1] < 0) {
      open->heads[1] = head;
    } else {
      launch.sets.at[launch.num_sets++] = {kv_head, {head, -1}};
    }
  }
}

}  // namespace

std::size_t estimate_workspace_bytes(const DeviceEstimateCall& call) {
  Arena arena(nullptr);
  EstimateArguments arguments = {};
  take_workspace(call, Streams::of(call.key.rows), arena, arguments);
  return arena.used();
}

void estimate(const DeviceEstimateCall& call, void* workspace, Stream stream) {
  if (call.query.rows == 0) return;
  const bool grouped = call.query.heads > call.key.heads;
  Launch launch;
  list_sets(call, grouped, launch);
  if (launch.num_sets == 0) return;
  EstimateArguments& arguments = launch.arguments;
  arguments.query = byte_rows(call.query);
  arguments.key = byte_rows(call.key);
  arguments.chunks = static_cast<std::int32_t>(call.query.dim / 8);
  arguments.q_len = static_cast<std::int32_t>(call.query.rows);
  arguments.streams = Streams::of(call.key.rows);
  arguments.scale = call.softmax_scale * std::numbers::log2e_v<float>;
  arguments.column_sums = call.column_sums;
  arguments.diagonal_sums = call.diagonal_sums;
  arguments.head_stride = call.head_stride;
  Arena arena(workspace);
  take_workspace(call, arguments.streams, arena, arguments);
  if (call.key.dtype == base::DType::bf16) {
    launch_head_dim<__nv_bfloat16>(call.key.dim, launch, grouped, stream);
  } else {
    launch_head_dim<__half>(call.key.dim, launch, grouped, stream);
  }
}

}  // namespace minference::kernels::cuda
