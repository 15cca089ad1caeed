#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "abi.h"
#include "flash_attention.h"
#include "head_patterns.h"
#include "host.h"

// The backend as ggml sees it: a device of type ACCEL, beside the CPU and on its memory, that wants attention during
// prefill and nothing else.
namespace minference::ggml {
namespace {

constexpr const char* kName = "MInference";
constexpr const char* kPatternsVariable = "MINFERENCE_GGML_PATTERNS";

// One ggml of the process, and what is registered with it. Lives as long as the plugin.
struct Module {
  Host host;
  Device device;
  Registry registry;
};

std::string requested_patterns() {
  const char* value = std::getenv(kPatternsVariable);
  return value ? value : "";
}

// ---- A backend: one context of the application --------------------------------------------------------------------

class PrefillBackend {
 public:
  explicit PrefillBackend(Device* device)
      : module_(*static_cast<Module*>(device->context)),
        attention_(module_.host, HeadPatterns(module_.host, requested_patterns())) {
    const BackendLayout& layout = module_.host.layout;
    words_[BackendLayout::kGuid] = const_cast<unsigned char*>(kGuid);
    words_[BackendLayout::kGetName] = reinterpret_cast<void*>(+[](Backend*) { return kName; });
    words_[BackendLayout::kFree] = reinterpret_cast<void*>(+[](Backend* backend) { delete of(backend); });
    words_[layout.graph_compute] =
        reinterpret_cast<void*>(+[](Backend* backend, Graph* graph) { return of(backend)->compute(graph); });
    words_[layout.device] = device;
    log(module_.host, LogLevel::info,
        "attention of " + std::to_string(kMinRows) +
            " tokens or more at once, head patterns: " + attention_.description());
  }

  ~PrefillBackend() {
    if (const std::string text = attention_.summary(); !text.empty()) log(module_.host, LogLevel::info, text);
    if (cpu_) module_.host.free(cpu_);
  }

  PrefillBackend(const PrefillBackend&) = delete;
  PrefillBackend& operator=(const PrefillBackend&) = delete;

  // ggml sees the table.
  static PrefillBackend* of(Backend* backend) { return reinterpret_cast<PrefillBackend*>(backend); }
  Backend* as_backend() { return reinterpret_cast<Backend*>(this); }

  void set_num_threads(int num_threads) {
    num_threads_ = std::max(1, num_threads);
    attention_.set_num_threads(num_threads_);
  }

 private:
  static constexpr unsigned char kGuid[16] = {0x6d, 0x69, 0x6e, 0x66, 0x65, 0x72, 0x65, 0x6e,
                                              0x63, 0x65, 0x2d, 0x67, 0x67, 0x6d, 0x6c, 0x01};

  Status compute(Graph* graph) {
    const Host& host = module_.host;
    try {
      for (int i = 0; i < host.graph_n_nodes(graph); ++i) {
        const Tensor& node = *host.graph_node(graph, i);
        if (node.op != host.operations.flash_attention) continue;
        if ((node.flags & host.compute_flag) != host.compute_flag) continue;
        if (!attention_.compute(node)) return compute_by_ggml(graph);
      }
      return kSuccess;
    } catch (const std::exception& error) {
      log(host, LogLevel::error, std::string(error.what()) + "; ggml computes attention instead");
      return compute_by_ggml(graph);
    }
  }

  // The whole graph on ggml's own CPU backend.
  Status compute_by_ggml(Graph* graph) {
    const Host& host = module_.host;
    if (!cpu_) cpu_ = host.init_by_type(kDeviceTypeCpu, nullptr);
    if (!cpu_) return kFailed;
    if (void* set = host.proc_address(host.registry_of(host.device_of(cpu_)), "ggml_backend_set_n_threads")) {
      reinterpret_cast<void (*)(Backend*, int)>(set)(cpu_, num_threads_);
    }
    return host.graph_compute(cpu_, graph);
  }

  void* words_[BackendLayout::kWords] = {};  // first: this is the object that ggml holds
  Module& module_;
  FlashAttention attention_;
  int num_threads_ = 1;
  Backend* cpu_ = nullptr;
};

// ---- The device ------------------------------------------------------------------------------------------------------

const char* device_description(Device*) {
  return "sparse attention of long prompts";
}

void device_memory(Device*, std::size_t* free, std::size_t* total) {
  *free = *total = 0;  // none of its own
}

int device_type(Device*) {
  return kDeviceTypeAccel;
}

void device_properties(Device* device, DeviceProperties* properties) {
  *properties = {};
  properties->name = kName;
  properties->description = device_description(device);
  properties->type = kDeviceTypeAccel;
}

Backend* init_backend(Device* device, const char*) {
  try {
    return (new PrefillBackend(device))->as_backend();
  } catch (const std::exception& error) {
    log(static_cast<Module*>(device->context)->host, LogLevel::error, error.what());
    return nullptr;
  }
}

bool supports_op(Device* device, const Tensor* op) {
  const Host& host = static_cast<Module*>(device->context)->host;
  const Operations& known = host.operations;
  // Views cost nothing; a graph of attention has them between its nodes.
  for (const std::int32_t view : {known.none, known.view, known.reshape, known.permute, known.transpose}) {
    if (op->op == view) return true;
  }
  return supports_attention(host, *op);
}

// ---- The registry ----------------------------------------------------------------------------------------------------

void set_num_threads(Backend* backend, int num_threads) {
  PrefillBackend::of(backend)->set_num_threads(num_threads);
}

void* proc_address(Registry*, const char* name) {
  return std::string(name) == "ggml_backend_set_n_threads" ? reinterpret_cast<void*>(&set_num_threads)
                                                           : nullptr;
}

std::unique_ptr<Module> make_module(const Host& host) {
  auto module = std::make_unique<Module>();
  module->host = host;
  module->device = {};
  module->device.get_name = [](Device*) { return kName; };
  module->device.get_description = device_description;
  module->device.get_memory = device_memory;
  module->device.get_type = device_type;
  module->device.get_props = device_properties;
  module->device.init_backend = init_backend;
  // The CPU backend's own: then the scheduler moves attention from there to here.
  module->device.get_buffer_type = [](Device* device) {
    return static_cast<Module*>(device->context)->host.cpu_buffer_type();
  };
  module->device.supports_op = supports_op;
  module->device.supports_buft = [](Device* device, BufferType* type) {
    return static_cast<Module*>(device->context)->host.is_host(type);
  };
  module->device.registry = &module->registry;
  module->device.context = module.get();
  module->registry = {
      kApiVersion,
      [](Registry*) { return kName; },
      [](Registry*) { return std::size_t{1}; },
      [](Registry* registry, std::size_t) { return &static_cast<Module*>(registry->context)->device; },
      proc_address,
      module.get()};
  return module;
}

Registry* load(const void* caller) {
  static std::mutex mutex;
  // For good: at exit a global of the host may free its backend after everything of ours that could be destroyed.
  static auto& modules = *new std::vector<std::unique_ptr<Module>>;
  const std::lock_guard lock(mutex);
  Host host{};
  if (const std::string problem = bind_host(caller, host); !problem.empty()) {
    log(host, LogLevel::error, problem);
    return nullptr;
  }
  try {
    const HeadPatterns patterns(host, requested_patterns());
    log(host, LogLevel::info,
        "attention of " + std::to_string(kMinRows) +
            " tokens or more at once, head patterns: " + patterns.description());
  } catch (const std::exception& error) {
    log(host, LogLevel::error, std::string(kPatternsVariable) + ": " + error.what());
    return nullptr;
  }
  for (const auto& module : modules) {
    if (module->host.version == host.version) return &module->registry;
  }
  return &modules.emplace_back(make_module(host))->registry;
}

}  // namespace
}  // namespace minference::ggml

extern "C" {

__attribute__((visibility("default"))) minference::ggml::Registry* ggml_backend_init() {
  return minference::ggml::load(__builtin_return_address(0));
}

// 0: not on this machine. ggml's own kernels are as good without AVX2.
__attribute__((visibility("default"))) int ggml_backend_score() {
  return __builtin_cpu_supports("avx2") ? 1 : 0;
}

}  // extern "C"
