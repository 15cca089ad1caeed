#include "base/executor.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/process_generation.h"

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
  ~Crew() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (auto& thread : threads) thread.join();
  }

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

// A CPU taken away from the process since leaves the thread where it is.
void run_on(std::thread& thread, const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

class ThreadPool final : public Executor {
 public:
  ThreadPool(int num_workers, std::vector<int> cpus)
      : num_workers_(num_workers),
        pinned_(!cpus.empty()),
        cpus_(pinned_ ? std::move(cpus) : allowed_cpus()) {}

  ~ThreadPool() override {
    if (crew_ && owner_ != process_generation()) static_cast<void>(crew_.release());
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
    const std::uint64_t process = process_generation();
    if (crew_ && owner_ == process) return;
    // After fork() the old crew's threads do not exist here and its mutex may be held: it can only be leaked.
    static_cast<void>(crew_.release());
    auto crew = std::make_unique<Crew>();
    crew->threads.reserve(static_cast<std::size_t>(num_workers_ - 1));
    for (int worker = 1; worker < num_workers_; ++worker) {
      try {
        crew->threads.emplace_back(work, std::ref(*crew), worker);
      } catch (const std::system_error&) {
        refuse("threads", "must all start, " + std::to_string(num_workers_ - 1) + " beside the caller's",
               worker - 1, ErrorCode::out_of_memory);
      }
      run_on(crew->threads.back(),
             pinned_ ? std::vector{cpus_[static_cast<std::size_t>(worker) % cpus_.size()]} : cpus_);
    }
    crew_ = std::move(crew);
    owner_ = process;
  }

  int num_workers_;
  bool pinned_;  // each worker to one of cpus_; otherwise every worker may use all of them
  std::vector<int> cpus_;
  std::unique_ptr<Crew> crew_;
  std::uint64_t owner_ = 0;  // process_generation() of the crew's threads
};

}  // namespace

std::unique_ptr<Executor> make_host_executor(int num_workers, HostParallelFor parallel_for, void* state) {
  return std::make_unique<HostExecutor>(num_workers, parallel_for, state);
}

std::unique_ptr<Executor> make_thread_pool(int num_workers, std::vector<int> cpus) {
  return std::make_unique<ThreadPool>(num_workers, std::move(cpus));
}

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(getpid(), sizeof set, &set) != 0) {
    std::vector<int> all(std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, CPU_SETSIZE));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

}  // namespace minference::base
