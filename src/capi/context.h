#pragma once

#include <atomic>
#include <memory>

#include "base/executor.h"
#include "base/isa.h"
#include "capi/status.h"

struct minference_context {
  minference::base::Isa isa;
  std::unique_ptr<minference::base::Executor> executor;
  std::atomic<bool> busy{false};
};

namespace minference::capi {

// Holds a context for one call. Throws Error(busy) when another call has it.
class ContextLease {
 public:
  explicit ContextLease(minference_context* context) : context_(not_null(context, "context")) {
    if (context_.busy.exchange(true, std::memory_order_acquire))
      base::refuse("context", "must not run two calls at once", "a second call", base::ErrorCode::busy);
  }
  ContextLease(const ContextLease&) = delete;
  ContextLease& operator=(const ContextLease&) = delete;
  ~ContextLease() { context_.busy.store(false, std::memory_order_release); }

  base::Isa isa() const { return context_.isa; }
  base::Executor& executor() const { return *context_.executor; }

 private:
  minference_context& context_;
};

}  // namespace minference::capi
