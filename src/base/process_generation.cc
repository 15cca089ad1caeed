#include "base/process_generation.h"

#include <pthread.h>

#include <atomic>
#include <cstring>

#include "base/error.h"

namespace minference::base {
namespace {

std::atomic<std::uint64_t> generation{1};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "a lock may be held when the process forks");

// When the library is loaded, not at the first call: a fork() during that would leave the child half-way through it.
const int watch_error = pthread_atfork(nullptr, nullptr, [] { ++generation; });

}  // namespace

std::uint64_t process_generation() {
  require(watch_error == 0, "fork()", "must be watched for", std::strerror(watch_error),
          ErrorCode::out_of_memory);
  return generation.load(std::memory_order_relaxed);
}

}  // namespace minference::base
