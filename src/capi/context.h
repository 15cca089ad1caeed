#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/executor.h"
#include "base/isa.h"
#include "base/process_generation.h"
#include "capi/status.h"

struct minference_context {
  minference::base::Isa isa;
  std::unique_ptr<minference::base::Executor> executor;
  // process_generation() of the running call, or 0: what ran in another thread when the process forked does not run in the
  // child.
  std::atomic<std::uint64_t> busy_in{0};
};

namespace minference::capi {

// Holds a context for one call. Throws Error(busy) when another call has it.
class ContextLease {
 public:
  explicit ContextLease(minference_context* context) : context_(not_null(context, "context")) {
    const std::uint64_t process = base::process_generation();
    if (context_.busy_in.exchange(process, std::memory_order_acquire) == process)
      base::refuse("context", "must not run two calls at once", "a second call", base::ErrorCode::busy);
  }
  ContextLease(const ContextLease&) = delete;
  ContextLease& operator=(const ContextLease&) = delete;
  ~ContextLease() { context_.busy_in.store(0, std::memory_order_release); }

  base::Isa isa() const { return context_.isa; }
  base::Executor& executor() const { return *context_.executor; }

 private:
  minference_context& context_;
};

}  // namespace minference::capi
