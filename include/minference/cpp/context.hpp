#pragma once

#include <minference/cpp/handle.hpp>
#include <minference/cpp/tensor.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace minference {

// The version of the loaded library, such as "0.1.0".
inline std::string_view version() {
  return minference_version();
}

struct ContextOptions {
  std::int32_t num_threads = 0;               // 0: as many as CPUs this process may use
  std::span<const std::int32_t> cpus = {};    // thread i runs on cpus[i % size]; empty: not pinned
  std::string isa = {};                       // "": environment variable MINFERENCE_ISA, else the best here
  minference_parallel_for parallel_for = {};  // the caller's own threads instead of a pool
  void* parallel_for_state = nullptr;
};

// Threads and instruction set. One call at a time: a second one, from any thread, throws Status::busy. Moves,
// never copies; one that was moved from has no threads, isa() "", and calls refuse it.
class Context {
 public:
  explicit Context(const ContextOptions& options = {}) : handle_(make(options)) {}

  std::int32_t num_threads() const { return minference_context_num_threads(c()); }
  std::string_view isa() const { return c() ? minference_context_isa(c()) : std::string_view(); }
  minference_context* c() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<minference_context, minference_context_destroy>;

  static Handle make(const ContextOptions& options) {
    if (minference_abi_version() != MINFERENCE_ABI_VERSION)
      throw Error(Status::unsupported, "libminference's ABI version must be " +
                                           std::to_string(MINFERENCE_ABI_VERSION) + ", got " +
                                           std::to_string(minference_abi_version()));
    const minference_context_options given{.struct_size = sizeof given,
                                           .num_threads = options.num_threads,
                                           .num_cpus = static_cast<std::int32_t>(options.cpus.size()),
                                           .cpus = options.cpus.data(),
                                           .isa = options.isa.c_str(),
                                           .parallel_for = options.parallel_for,
                                           .parallel_for_state = options.parallel_for_state};
    return Handle(minference_context_create, &given);
  }

  Handle handle_;
};

// The kernel that `step` ("attention" or "estimate") picks, such as "avx512bf16"; `isa` as in ContextOptions.
inline std::string_view kernel_name(const char* step, DType dtype, std::int64_t head_dim,
                                    const char* isa = nullptr) {
  const char* name = minference_kernel_name(step, isa, static_cast<std::int32_t>(dtype), head_dim);
  if (!name) detail::check(minference_last_status());
  return name;
}

}  // namespace minference
