#include "base/arena.h"
#include "cuda/error.h"
#include "kernels/select/cuda/adaptive.cuh"
#include "kernels/select/cuda/select_cuda.h"
#include "kernels/select/cuda/top_k.cuh"
#include "kernels/select/select.h"

namespace minference::kernels::cuda {

namespace {

using base::Arena;
using minference::cuda::check;
using minference::cuda::Stream;
using sparse::Pattern;

struct PublishedTask {
  std::int32_t head;
  std::int32_t vertical, slash;
};

// Passed by value, so that a captured graph keeps them.
struct PublishedTasks {
  PublishedTask at[kMaxSelectedHeads];
};
struct AdaptiveTasks {
  AdaptiveTask at[kMaxSelectedHeads];
};

// One CTA a list: blockIdx.x the head, blockIdx.y columns or offsets.
__global__ void __launch_bounds__(kSelectThreads)
    published_kernel(const __grid_constant__ SelectArguments arguments,
                     const __grid_constant__ PublishedTasks tasks) {
  extern __shared__ __align__(16) char shared[];
  auto& memory = *reinterpret_cast<TopKMemory*>(shared);
  const PublishedTask task = tasks.at[blockIdx.x];
  const auto row = [&](const float* sums) { return sums + task.head * arguments.head_stride; };
  const std::int64_t words = task.head * sparse::member_words(arguments.kv_len);
  if (blockIdx.y == 0) {
    top_k_bits(row(arguments.diagonal_sums), arguments.kv_len, task.slash, kForcedOffsets,
               arguments.offsets + words, memory);
  } else {
    top_k_bits(row(arguments.column_sums), arguments.kv_len, task.vertical, kForcedColumns,
               arguments.columns + words, memory);
  }
}

// The head of CTA blockIdx.x, of those that begin at task `first`, and the chunk of blockIdx.y.
struct AdaptiveWave {
  AdaptiveTasks tasks;
  int first;
  AdaptiveScratch scratch;

  __device__ AdaptiveSelection selection(const SelectArguments& arguments, int chunk, int num_chunks) const {
    AdaptiveScratch own = scratch;
    own.move_to(static_cast<int>(blockIdx.x));
    return {arguments, tasks.at[first + static_cast<int>(blockIdx.x)], own, chunk, num_chunks};
  }
};

enum class Step { sum_bands, find_own_columns, weigh_bands, write_members };

template <Step kStep>
__global__ void __launch_bounds__(kSelectThreads)
    adaptive_kernel(const __grid_constant__ SelectArguments arguments,
                    const __grid_constant__ AdaptiveWave wave) {
  AdaptiveSelection selection =
      wave.selection(arguments, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y));
  if constexpr (kStep == Step::sum_bands) selection.sum_bands();
  if constexpr (kStep == Step::find_own_columns) selection.find_own_columns();
  if constexpr (kStep == Step::weigh_bands) selection.weigh_bands();
  if constexpr (kStep == Step::write_members) selection.write_members();
}

__global__ void __launch_bounds__(kSelectThreads)
    search_kernel(const __grid_constant__ SelectArguments arguments,
                  const __grid_constant__ AdaptiveWave wave, int round) {
  wave.selection(arguments, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y)).probe(round);
}

// The first round, beside the columns that no threshold decides: one CTA a head more, which takes longest.
__global__ void __launch_bounds__(kSelectThreads)
    first_search_kernel(const __grid_constant__ SelectArguments arguments,
                        const __grid_constant__ AdaptiveWave wave) {
  extern __shared__ __align__(16) char shared[];
  const int chunk = static_cast<int>(blockIdx.y) - 1, num_chunks = static_cast<int>(gridDim.y) - 1;
  AdaptiveSelection selection = wave.selection(arguments, base::max(chunk, 0), num_chunks);
  if (chunk < 0) {
    selection.write_least_columns(*reinterpret_cast<TopKMemory*>(shared));
  } else {
    selection.probe(0);
  }
}

std::int64_t count_of(const DeviceSelectCall& call, Pattern pattern) {
  std::int64_t count = 0;
  for (const sparse::HeadPattern& head : call.heads) count += head.pattern == pattern;
  return count;
}

// Heads that are selected at the same time each have scratch of their own.
AdaptiveScratch take_scratch(const DeviceSelectCall& call, Arena& arena) {
  constexpr std::int64_t kBudget = 128 << 20;
  const std::int64_t bytes = AdaptiveScratch::bytes_per_head(call.kv_len);
  const std::int64_t heads = base::clamp<std::int64_t>(kBudget / bytes, 1, count_of(call, Pattern::adaptive));
  return {arena.take<char>(heads * bytes), call.kv_len, static_cast<int>(heads)};
}

static_assert(sizeof(TopKMemory) <= 80 * 1024,
              "with a search beside it, what a CTA of compute capability 8.6, 8.9 or 12.0 may have: 99 KB");

template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, int shared_bytes, Stream stream, const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "reserving shared memory");
  kernel<<<grid, kSelectThreads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "launching the selection");
}

}  // namespace

std::size_t select_workspace_bytes(const DeviceSelectCall& call) {
  Arena arena(nullptr);
  if (count_of(call, Pattern::adaptive) > 0) take_scratch(call, arena);
  return arena.used();
}

void select(const DeviceSelectCall& call, void* workspace, Stream stream) {
  base::require(count_of(call, Pattern::vertical_slash) <= kMaxSelectedHeads &&
                    count_of(call, Pattern::adaptive) <= kMaxSelectedHeads,
                "heads", "must have at most 128 that are selected online", call.heads.size(),
                base::ErrorCode::unsupported);
  if (call.kv_len == 0) return;
  SelectArguments arguments{call.column_sums, call.diagonal_sums,
                            call.head_stride, static_cast<std::int32_t>(call.kv_len),
                            call.columns,     call.offsets};
  PublishedTasks published;
  AdaptiveTasks adaptive;
  int num_published = 0, num_adaptive = 0;
  for (std::size_t h = 0; h < call.heads.size(); ++h) {
    const sparse::HeadPattern& head = call.heads[h];
    const auto index = static_cast<std::int32_t>(h);
    if (head.pattern == Pattern::vertical_slash) {
      published.at[num_published++] = {index,
                                       base::max(head.size[0], static_cast<std::int32_t>(kMinVertical)),
                                       base::max(head.size[1], static_cast<std::int32_t>(kMinSlash))};
    } else if (head.pattern == Pattern::adaptive) {
      adaptive.at[num_adaptive++] = {index, head.share_ppm * 1e-6, call.column_cost};
    }
  }
  if (num_published > 0)
    launch(published_kernel, dim3(num_published, 2), sizeof(TopKMemory), stream, arguments, published);
  if (num_adaptive == 0) return;
  Arena arena(workspace);
  AdaptiveWave wave{adaptive, 0, take_scratch(call, arena)};
  const auto chunks = static_cast<unsigned>(AdaptiveScratch::chunks_of(call.kv_len));
  for (; wave.first < num_adaptive; wave.first += wave.scratch.num_heads()) {
    const auto heads = static_cast<unsigned>(base::min(wave.scratch.num_heads(), num_adaptive - wave.first));
    const dim3 grid(heads, chunks);
    launch(adaptive_kernel<Step::sum_bands>, grid, 0, stream, arguments, wave);
    launch(adaptive_kernel<Step::find_own_columns>, grid, 0, stream, arguments, wave);
    launch(adaptive_kernel<Step::weigh_bands>, grid, 0, stream, arguments, wave);
    launch(first_search_kernel, dim3(heads, chunks + 1), sizeof(TopKMemory), stream, arguments, wave);
    for (int round = 1; round < kSearchRounds; ++round)
      launch(search_kernel, grid, 0, stream, arguments, wave, round);
    launch(adaptive_kernel<Step::write_members>, grid, 0, stream, arguments, wave);
  }
}

}  // namespace minference::kernels::cuda
