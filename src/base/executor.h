#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

namespace minference::base {

// Runs loops on a fixed number of workers. One loop at a time; not re-entrant.
class Executor {
 public:
  // Called once per worker, concurrently; `worker` is in [0, num_workers()).
  struct Task {
    void (*call)(void* state, int worker) noexcept;
    void* state;
  };

  virtual ~Executor() = default;
  virtual int num_workers() const noexcept = 0;
  // Throws Error(out_of_memory) when threads cannot be started, before any call of the task.
  virtual void run(Task task) = 0;

  // body(index, worker) for every index in [0, count), in order of claiming: put the longest work first.
  // No two concurrent calls share a worker, so worker-owned scratch needs no lock. `body` must not throw.
  template <class Body>
  void parallel_for(std::int64_t count, Body&& body) {
    struct Loop {
      std::atomic<std::int64_t> next{0};
      std::int64_t count;
      Body& body;
    } loop{{}, count, body};
    run({[](void* state, int worker) noexcept {
           auto& shared = *static_cast<Loop*>(state);
           for (;;) {
             const std::int64_t index = shared.next.fetch_add(1, std::memory_order_relaxed);
             if (index >= shared.count) return;
             shared.body(index, worker);
           }
         },
         &loop});
  }

  // The same for a body that may throw: remaining indices are skipped and the first exception is rethrown
  // here.
  template <class Body>
  void parallel_for_throwing(std::int64_t count, Body&& body) {
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::exception_ptr first;
    parallel_for(count, [&](std::int64_t index, int worker) noexcept {
      if (failed.load(std::memory_order_relaxed)) return;
      try {
        body(index, worker);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failed.exchange(true)) first = std::current_exception();
      }
    });
    if (first) std::rethrow_exception(first);
  }
};

// The caller's own parallel loop: it must call task(argument, i) for every i in [0, num_tasks) and return
// when all have.
using HostParallelFor = void (*)(void* state, std::int64_t num_tasks,
                                 void (*task)(void* argument, std::int64_t i), void* argument);

std::unique_ptr<Executor> make_host_executor(int num_workers, HostParallelFor parallel_for, void* state);

// A pool of threads that sleep between loops and start at the first one. `cpus` pins worker i to
// cpus[i % size] when not empty; otherwise workers may use what allowed_cpus() is now, whatever the calling
// thread is bound to.
// The pool survives fork(): the child starts threads of its own at its first loop.
std::unique_ptr<Executor> make_thread_pool(int num_workers, std::vector<int> cpus = {});

// The CPUs this process may use, ascending: those of its main thread, since a thread that OpenMP or an engine
// has bound tells only where it runs itself.
std::vector<int> allowed_cpus();

}  // namespace minference::base
