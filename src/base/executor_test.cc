#include "base/executor.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include "base/error.h"

// In this program a child has its parent's pid, as below a container's process 1 that has unshared its PID namespace.
extern "C" pid_t getpid() noexcept {
  static const auto first = static_cast<pid_t>(syscall(SYS_getpid));
  return first;
}

namespace minference::base {
namespace {

std::vector<int> calls_of_workers(Executor& executor) {
  std::vector<int> calls(static_cast<std::size_t>(executor.num_workers()), 0);
  executor.run({[](void* state, int worker) noexcept {
                  ++(*static_cast<std::vector<int>*>(state))[static_cast<std::size_t>(worker)];
                },
                &calls});
  return calls;
}

std::vector<int> own_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

std::vector<std::vector<int>> cpus_of_workers(Executor& executor) {
  std::vector<std::vector<int>> cpus(static_cast<std::size_t>(executor.num_workers()));
  executor.run({[](void* state, int worker) noexcept {
                  (*static_cast<std::vector<std::vector<int>>*>(state))[static_cast<std::size_t>(worker)] =
                      own_cpus();
                },
                &cpus});
  return cpus;
}

// Address space for a few more stacks only, while it lives.
class FewStacks {
 public:
  FewStacks() {
    pthread_getattr_default_np(&attributes_);
    pthread_attr_t large = attributes_;
    pthread_attr_setstacksize(&large, kStackBytes);
    pthread_setattr_default_np(&large);
    getrlimit(RLIMIT_AS, &limit_);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit tight = limit_;
    tight.rlim_cur = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + 4 * kStackBytes;
    setrlimit(RLIMIT_AS, &tight);
  }
  FewStacks(const FewStacks&) = delete;
  FewStacks& operator=(const FewStacks&) = delete;
  ~FewStacks() {
    setrlimit(RLIMIT_AS, &limit_);
    pthread_setattr_default_np(&attributes_);
  }

 private:
  static constexpr std::size_t kStackBytes = std::size_t{128} << 20;
  pthread_attr_t attributes_;
  rlimit limit_;
};

TEST(ThreadPool, ThreadsThatDoNotStartAreAnErrorAndTheNextLoopStartsThemAll) {
  const auto pool = make_thread_pool(33);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const FewStacks few;
    try {
      calls_of_workers(*pool);
      ADD_FAILURE() << "33 workers ran";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
      EXPECT_EQ(std::string(error.what()).substr(0, 44), "threads must all start, 32 beside the caller");
    }
  }
  EXPECT_EQ(calls_of_workers(*pool), std::vector<int>(33, 1));
}

#ifndef __SANITIZE_THREAD__  // ends a child that starts threads
TEST(ThreadPool, AForkedChildHasThreadsOfItsOwnWhateverItsPid) {
  auto used = make_thread_pool(3), abandoned = make_thread_pool(3);
  const std::vector<int> once(3, 1);
  ASSERT_EQ(calls_of_workers(*used), once);
  ASSERT_EQ(calls_of_workers(*abandoned), once);
  const pid_t parent = getpid(), child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    const bool right = getpid() == parent && calls_of_workers(*used) == once;
    used.reset();
    abandoned.reset();
    _exit(right ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "signal " << WTERMSIG(status);
  EXPECT_EQ(calls_of_workers(*used), once);
}
#endif

TEST(ThreadPool, WorkersOfABoundThreadUseWhatTheProcessMay) {
  const std::vector<int> all = allowed_cpus();
  ASSERT_EQ(all, own_cpus()) << "the test runs in the main thread";
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(all.back(), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(allowed_cpus(), all);
    const auto pool = make_thread_pool(3);
    EXPECT_EQ(cpus_of_workers(*pool), (std::vector<std::vector<int>>{{all.back()}, all, all}));
  }).join();
}

TEST(ThreadPool, PinnedWorkersTakeTheirCpusInTurn) {
  const std::vector<int> all = allowed_cpus();
  const std::vector<int> cpus = {all.front(), all.back()};
  const auto pool = make_thread_pool(4, cpus);
  const auto seen = cpus_of_workers(*pool);
  for (std::size_t worker = 1; worker < seen.size(); ++worker)
    EXPECT_EQ(seen[worker], std::vector<int>{cpus[worker % 2]}) << "worker " << worker;
}

}  // namespace
}  // namespace minference::base
