#include "capi/context.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "capi/tensors.h"
#include "kernels/attention/attention.h"
#include "kernels/estimate/estimate.h"

namespace minference::capi {
namespace {

constexpr int kMaxThreads = 4096;

std::vector<int> checked_cpus(const minference_context_options& options) {
  base::require(options.num_cpus >= 0 && options.num_cpus <= kMaxThreads, "options.num_cpus",
                "must be from 0 to 4096", options.num_cpus);
  if (options.num_cpus == 0) return {};
  not_null(options.cpus, "options.cpus");
  base::require(!options.parallel_for, "options.cpus", "must be empty when parallel_for brings the threads",
                std::to_string(options.num_cpus) + " CPUs");
  const std::vector<int> allowed = base::allowed_cpus();
  std::vector<int> cpus(options.cpus, options.cpus + options.num_cpus);
  for (const int cpu : cpus)
    base::require(std::binary_search(allowed.begin(), allowed.end(), cpu), "options.cpus",
                  "must be CPUs that this process may use", cpu);
  return cpus;
}

std::unique_ptr<base::Executor> make_executor(const minference_context_options& options) {
  base::require(options.num_threads >= 0 && options.num_threads <= kMaxThreads, "options.num_threads",
                "must be from 0 to 4096", options.num_threads);
  const std::vector<int> cpus = checked_cpus(options);
  const int threads = options.num_threads > 0 ? options.num_threads
                      : !cpus.empty()         ? options.num_cpus
                                              : static_cast<int>(base::allowed_cpus().size());
  if (options.parallel_for)
    return base::make_host_executor(threads, options.parallel_for, options.parallel_for_state);
  return base::make_thread_pool(threads, cpus);
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" {

minference_status minference_context_create(const minference_context_options* options,
                                            minference_context** context) {
  return capi::guarded([&] {
    capi::not_null(context, "context");
    const minference_context_options defaults{.struct_size = sizeof(minference_context_options)};
    const auto& given = options ? capi::checked_struct(options, "options") : defaults;
    const base::Isa isa = base::choose_isa(given.isa ? given.isa : "");
    *context = new minference_context{isa, capi::make_executor(given)};
  });
}

void minference_context_destroy(minference_context* context) {
  delete context;
}

int32_t minference_context_num_threads(const minference_context* context) {
  return context ? context->executor->num_workers() : 0;
}

const char* minference_context_isa(const minference_context* context) {
  return context ? base::name_of(context->isa) : nullptr;
}

const char* minference_kernel_name(const char* step, const char* isa, int32_t dtype, int64_t head_dim) {
  const char* name = nullptr;
  capi::guarded([&] {
    const std::string_view wanted = &capi::not_null(step, "step");
    const base::Isa level = base::choose_isa(isa ? isa : "");
    const base::DType type = capi::checked_float_dtype(dtype, "dtype");
    capi::check_head_dim(head_dim, "head_dim");
    if (wanted == "attention")
      name = kernels::select_attention(level, type, head_dim).name;
    else if (wanted == "estimate")
      name = kernels::select_estimate(level, type, head_dim).name;
    else
      base::refuse("step", "must be \"attention\" or \"estimate\"", wanted);
  });
  return name;
}

}  // extern "C"
