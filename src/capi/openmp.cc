#include <atomic>
#include <cstdint>

#include "minference/minference.h"

namespace {

// libgomp's entry of `#pragma omp parallel`: body(data) on every thread of a team of at most num_threads, the caller among
// them. 0 for flags: threads are bound as the process's environment says.
using GompParallel = void (*)(void (*body)(void* data), void* data, unsigned num_threads, unsigned flags);

struct Loop {
  std::int64_t num_tasks;
  void (*task)(void* argument, std::int64_t i);
  void* argument;
  std::atomic<std::int64_t> next{0};
};

// The runtime may give fewer threads than tasks, so that tasks are claimed, not dealt out.
void claim_tasks(void* data) {
  auto& loop = *static_cast<Loop*>(data);
  for (;;) {
    const std::int64_t i = loop.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= loop.num_tasks) return;
    loop.task(loop.argument, i);
  }
}

}  // namespace

extern "C" void minference_openmp_parallel_for(void* gomp_parallel, int64_t num_tasks,
                                               void (*task)(void* argument, int64_t i), void* argument) {
  Loop loop{num_tasks, task, argument};
  reinterpret_cast<GompParallel>(gomp_parallel)(claim_tasks, &loop, static_cast<unsigned>(num_tasks), 0);
}
