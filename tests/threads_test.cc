// Many contexts at once, and one context from many threads.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <minference/minference.hpp>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t kHeads = 4, kLen = 323, kDim = 64;
constexpr minference::Extents kShape{1, kHeads, kLen, kDim};

struct Inputs {
  std::vector<float> query = random(1), key = random(2), value = random(3);
  std::vector<minference::HeadPattern> heads{minference::vertical_slash(30, 100), minference::a_shape(16, 64),
                                             minference::block_sparse(3), minference::adaptive(0.9)};

  static std::vector<float> random(unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> distribution;
    std::vector<float> values(kHeads * kLen * kDim);
    for (float& value : values) value = distribution(generator);
    return values;
  }

  std::vector<float> run(minference::Context& context) const {
    std::vector<float> out(query.size());
    prefill(context, {query, kShape}, {key, kShape}, {value, kShape}, {out, kShape}, heads,
            {.fallback = minference::Fallback::off});
    return out;
  }
};

TEST(Threads, EightContextsAtOnceGiveTheBitsOfOne) {
  const Inputs inputs;
  minference::Context alone({.num_threads = 1});
  const std::vector<float> expected = inputs.run(alone);
  std::vector<int> wrong(8, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      minference::Context context({.num_threads = static_cast<std::int32_t>(1 + t % 3)});
      for (int repeat = 0; repeat < 3; ++repeat) wrong[t] += inputs.run(context) != expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(wrong.size(), 0));
}

TEST(Threads, ASecondCallOnABusyContextIsRefused) {
  const Inputs inputs;
  minference::Context alone({.num_threads = 1});
  const std::vector<float> expected = inputs.run(alone);

  // A parallel-for of the caller's that calls back into the context it works for.
  struct Reentry {
    const Inputs* inputs;
    minference::Context* context = nullptr;
    int busy = 0;
  } reentry{.inputs = &inputs};
  const minference_parallel_for call_back = [](void* state, std::int64_t num_tasks,
                                               void (*task)(void*, std::int64_t), void* argument) {
    auto& again = *static_cast<Reentry*>(state);
    try {
      again.inputs->run(*again.context);
    } catch (const minference::Error& error) {
      again.busy += error.status() == minference::Status::busy;
    }
    for (std::int64_t i = 0; i < num_tasks; ++i) task(argument, i);
  };
  minference::Context context({.num_threads = 2, .parallel_for = call_back, .parallel_for_state = &reentry});
  reentry.context = &context;
  EXPECT_EQ(inputs.run(context), expected);
  EXPECT_GT(reentry.busy, 0);
}

TEST(Threads, AForkDuringACallLeavesTheChildAContextThatIsFree) {
  const Inputs inputs;
  minference::Context alone({.num_threads = 1});
  const std::vector<float> expected = inputs.run(alone);

  // A parallel-for that keeps its call running until it is let go.
  struct Gate {
    std::atomic<bool> entered{false}, open{false};
  } gate;
  const minference_parallel_for wait_at_gate = [](void* state, std::int64_t num_tasks,
                                                  void (*task)(void*, std::int64_t), void* argument) {
    auto& shared = *static_cast<Gate*>(state);
    shared.entered = true;
    while (!shared.open) std::this_thread::yield();
    for (std::int64_t i = 0; i < num_tasks; ++i) task(argument, i);
  };
  minference::Context context({.num_threads = 2, .parallel_for = wait_at_gate, .parallel_for_state = &gate});
  std::vector<float> out;
  std::thread caller([&] { out = inputs.run(context); });
  while (!gate.entered) std::this_thread::yield();
  const pid_t child = fork();
  gate.open = true;
  if (child == 0) {
    alarm(20);
    try {
      _exit(inputs.run(context) == expected && inputs.run(context) == expected ? 0 : 1);
    } catch (const minference::Error&) {
      _exit(2);
    }
  }
  caller.join();
  EXPECT_EQ(out, expected);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "exit code " << WEXITSTATUS(status);
}

// An OpenMP runtime that gives one thread less than it is asked for, as near its thread limit.
void one_thread_less(void (*body)(void* data), void* data, unsigned num_threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned t = 2; t < num_threads; ++t) team.emplace_back(body, data);
  body(data);
  for (std::thread& thread : team) thread.join();
}

TEST(Threads, ThoseOfAnOpenMPRuntimeGiveTheSameBits) {
  const Inputs inputs;
  minference::Context alone({.num_threads = 1});
  minference::Context team({.num_threads = 3,
                            .parallel_for = minference_openmp_parallel_for,
                            .parallel_for_state = reinterpret_cast<void*>(one_thread_less)});
  EXPECT_EQ(inputs.run(team), inputs.run(alone));
}

}  // namespace
