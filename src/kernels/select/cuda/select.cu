#include "base/arena.h"
#include "cuda/error.h"
#include "kernels/select/cuda/adaptive.cuh"
#include "kernels/select/cuda/adaptive_cuts.cuh"
#include "kernels/select/cuda/adaptive_members.cuh"
#include "kernels/select/cuda/adaptive_weigh.cuh"
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

// The head of CTA blockIdx.x, of those that begin at task `first`.
struct AdaptiveWave {
  AdaptiveTasks tasks;
  int first;
  AdaptiveScratch scratch;

  __device__ AdaptiveHead head(const SelectArguments& arguments) const {
    const int slot = static_cast<int>(blockIdx.x);
    return {arguments, tasks.at[first + slot], scratch, slot};
  }
};

__global__ void __launch_bounds__(kWeighThreads, 2)
    weigh_kernel(const __grid_constant__ SelectArguments arguments,
                 const __grid_constant__ AdaptiveWave wave) {
  extern __shared__ __align__(16) char shared[];
  weigh_chunk(wave.head(arguments), static_cast<int>(blockIdx.y), *reinterpret_cast<WeighMemory*>(shared));
}

// blockIdx.y: the threshold, or the columns that are kept whatever it is.
__global__ void __launch_bounds__(kSelectThreads)
    cuts_kernel(const __grid_constant__ SelectArguments arguments,
                const __grid_constant__ AdaptiveWave wave) {
  extern __shared__ __align__(16) char shared[];
  const AdaptiveHead head = wave.head(arguments);
  if (blockIdx.y == 0) {
    LeastColumns least(head, *reinterpret_cast<LeastMemory*>(shared));
    float own;
    std::int32_t distance;
    least.find(own, distance);
    if (threadIdx.x == 0) head.cuts->least_own = own, head.cuts->least_distance = distance;
  } else {
    const float threshold = find_threshold(head, *reinterpret_cast<ThresholdMemory*>(shared));
    if (threadIdx.x == 0) head.cuts->threshold = threshold;
  }
}

__global__ void __launch_bounds__(kMemberThreads)
    members_kernel(const __grid_constant__ SelectArguments arguments,
                   const __grid_constant__ AdaptiveWave wave) {
  AdaptiveMembers(wave.head(arguments)).write(static_cast<int>(blockIdx.y));
}

std::int64_t count_of(const DeviceSelectCall& call, Pattern pattern) {
  std::int64_t count = 0;
  for (const sparse::HeadPattern& head : call.heads) count += head.pattern == pattern;
  return count;
}

// How many heads are selected at the same time.
std::int64_t heads_at_once(const DeviceSelectCall& call) {
  constexpr std::int64_t kBudget = 128 << 20;
  Arena one_head(nullptr);
  AdaptiveScratch(one_head, call.kv_len, 1);
  const std::int64_t count = count_of(call, Pattern::adaptive);
  const auto bytes = static_cast<std::int64_t>(one_head.used());
  const std::int64_t most = base::clamp<std::int64_t>(kBudget / bytes, 1, count);
  return base::divide_up(count, base::divide_up(count, most));
}

static_assert(sizeof(TopKMemory) <= 80 * 1024 && sizeof(LeastMemory) <= 80 * 1024 &&
                  sizeof(WeighMemory) <= 80 * 1024,
              "what a CTA of compute capability 8.6, 8.9 or 12.0 may have: 99 KB");

template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, int threads, int shared_bytes, Stream stream,
            const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "reserving shared memory");
  kernel<<<grid, threads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError(), "launching the selection");
}

}  // namespace

std::size_t select_workspace_bytes(const DeviceSelectCall& call) {
  Arena arena(nullptr);
  if (count_of(call, Pattern::adaptive) > 0) AdaptiveScratch(arena, call.kv_len, heads_at_once(call));
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
      adaptive.at[num_adaptive++] = {index, head.share_ppm * 1e-6, 1 / call.column_cost};
    }
  }
  if (num_published > 0)
    launch(published_kernel, dim3(num_published, 2), kSelectThreads, sizeof(TopKMemory), stream, arguments,
           published);
  if (num_adaptive == 0) return;
  Arena arena(workspace);
  const auto at_once = static_cast<int>(heads_at_once(call));
  AdaptiveWave wave{adaptive, 0, AdaptiveScratch(arena, call.kv_len, at_once)};
  const auto num_words = static_cast<unsigned>(sparse::member_words(call.kv_len));
  for (; wave.first < num_adaptive; wave.first += at_once) {
    const auto heads = static_cast<unsigned>(base::min(at_once, num_adaptive - wave.first));
    check(cudaMemsetAsync(wave.scratch.histograms, 0, heads * kCodes * sizeof(std::int64_t), stream),
          "clearing histograms");
    launch(weigh_kernel, dim3(heads, static_cast<unsigned>(wave.scratch.num_chunks)), kWeighThreads,
           sizeof(WeighMemory), stream, arguments, wave);
    launch(cuts_kernel, dim3(heads, 2), kSelectThreads,
           base::max(sizeof(LeastMemory), sizeof(ThresholdMemory)), stream, arguments, wave);
    launch(members_kernel, dim3(heads, base::divide_up<unsigned>(num_words, kMemberWords)), kMemberThreads, 0,
           stream, arguments, wave);
  }
}

}  // namespace minference::kernels::cuda
