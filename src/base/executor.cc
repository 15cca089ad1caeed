#include "base/executor.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace minference::base {
namespace {

class HostExecutor final : public Executor {
 public:
  HostExecutor(int num_workers, HostParallelFor host_loop, void* state)
      : num_workers_(num_workers), host_loop_(host_loop), state_(state) {}

  int num_workers() const noexcept override { return num_workers_; }

  void run(Task task) override {
    host_loop_(
        state_, num_workers_,
        [](void* argument, std::int64_t i) {
          const auto& shared = *static_cast<const Task*>(argument);
          shared.call(shared.state, static_cast<int>(i));
        },
        &task);
  }

 private:
  int num_workers_;
  HostParallelFor host_loop_;
  void* state_;
};

// The workers' side of the pool, shared with them so that a forked child can abandon it with its dead
// threads.
struct Crew {
  std::mutex mutex;
  std::condition_variable wake, finished;
  Executor::Task task{};
  std::uint64_t generation = 0;
  int running = 0;
  bool stop = false;
  std::vector<std::thread> threads;
};

void work(Crew& crew, int worker) {
  std::uint64_t seen = 0;
  for (;;) {
    Executor::Task task;
    {
      std::unique_lock lock(crew.mutex);
      crew.wake.wait(lock, [&] { return crew.stop || crew.generation != seen; });
      if (crew.stop) return;
      seen = crew.generation;
      task = crew.task;
    }
    task.call(task.state, worker);
    std::lock_guard lock(crew.mutex);
    if (--crew.running == 0) crew.finished.notify_one();
  }
}

void pin(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

class ThreadPool final : public Executor {
 public:
  ThreadPool(int num_workers, std::vector<int> cpus) : num_workers_(num_workers), cpus_(std::move(cpus)) {}

  ~ThreadPool() override {
    if (!crew_) return;
    if (owner_ != getpid()) {
      static_cast<void>(crew_.release());
      return;
    }
    {
      std::lock_guard lock(crew_->mutex);
      crew_->stop = true;
    }
    crew_->wake.notify_all();
    for (auto& thread : crew_->threads) thread.join();
  }

  int num_workers() const noexcept override { return num_workers_; }

  // The calling thread is worker 0.
  void run(Task task) override {
    if (num_workers_ == 1) return task.call(task.state, 0);
    start();
    {
      std::lock_guard lock(crew_->mutex);
      crew_->task = task;
      crew_->running = num_workers_ - 1;
      ++crew_->generation;
    }
    crew_->wake.notify_all();
    task.call(task.state, 0);
    std::unique_lock lock(crew_->mutex);
    crew_->finished.wait(lock, [&] { return crew_->running == 0; });
  }

 private:
  void start() {
    if (crew_ && owner_ == getpid()) return;
    // After fork() the old crew's threads do not exist here and its mutex may be held: it can only be leaked.
    static_cast<void>(crew_.release());
    crew_ = std::make_unique<Crew>();
    owner_ = getpid();
    for (int worker = 1; worker < num_workers_; ++worker) {
      crew_->threads.emplace_back(work, std::ref(*crew_), worker);
      if (!cpus_.empty()) pin(crew_->threads.back(), cpus_[static_cast<std::size_t>(worker) % cpus_.size()]);
    }
  }

  int num_workers_;
  std::vector<int> cpus_;
  std::unique_ptr<Crew> crew_;
  pid_t owner_ = 0;
};

}  // namespace

std::unique_ptr<Executor> make_host_executor(int num_workers, HostParallelFor parallel_for, void* state) {
  return std::make_unique<HostExecutor>(num_workers, parallel_for, state);
}

std::unique_ptr<Executor> make_thread_pool(int num_workers, std::vector<int> cpus) {
  return std::make_unique<ThreadPool>(num_workers, std::move(cpus));
}

int allowed_cpu_count() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace minference::base
