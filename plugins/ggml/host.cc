#include "host.h"

#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <utility>

namespace minference::ggml {
namespace {

struct Context;

// What only the check below calls.
struct Builder {
  struct Parameters {
    std::size_t mem_size;
    void* mem_buffer;
    bool no_alloc;
  };
  Context* (*init)(Parameters parameters);
  void (*free)(Context* context);
  Tensor* (*new_tensor_4d)(Context*, Type, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
  Tensor* (*view_4d)(Context*, Tensor*, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::size_t,
                     std::size_t, std::size_t, std::size_t);
  Tensor* (*reshape_4d)(Context*, Tensor*, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
  Tensor* (*permute)(Context*, Tensor*, int, int, int, int);
  Tensor* (*transpose)(Context*, Tensor*);
  Tensor* (*flash_attn_ext)(Context*, Tensor*, Tensor*, Tensor*, Tensor*, float, float, float);
  Tensor* (*set_name)(Tensor*, const char*);
  void* (*get_data)(const Tensor*);
  Graph* (*new_graph)(Context*);
  void (*build_forward_expand)(Graph*, Tensor*);
  const char* (*backend_name)(Backend*);
  Status (*graph_compute_async)(Backend*, Graph*);
};

// Symbols of one library and of those it needs.
class Library {
 public:
  explicit Library(const void* address) {
    Dl_info info;
    if (dladdr(address, &info) && info.dli_fname) handle_ = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    // A program that holds ggml itself, and exports it.
    if (!handle_) handle_ = dlopen(nullptr, RTLD_NOW);
  }
  ~Library() {
    if (handle_) dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  template <class Function>
  void find(const char* symbol, Function*& function) {
    function = reinterpret_cast<Function*>(handle_ ? dlsym(handle_, symbol) : nullptr);
    if (!function && missing_.empty()) missing_ = symbol;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* handle_ = nullptr;
  std::string missing_;
};

void find_functions(Library& library, Host& host, Builder& builder) {
  library.find("ggml_version", host.version);
  library.find("ggml_type_name", host.type_name);
  library.find("ggml_tensor_overhead", host.tensor_overhead);
  library.find("ggml_graph_overhead", host.graph_overhead);
  library.find("ggml_graph_n_nodes", host.graph_n_nodes);
  library.find("ggml_graph_node", host.graph_node);
  library.find("ggml_backend_cpu_buffer_type", host.cpu_buffer_type);
  library.find("ggml_backend_buft_is_host", host.is_host);
  library.find("ggml_backend_init_by_type", host.init_by_type);
  library.find("ggml_backend_free", host.free);
  library.find("ggml_backend_get_device", host.device_of);
  library.find("ggml_backend_dev_backend_reg", host.registry_of);
  library.find("ggml_backend_reg_get_proc_address", host.proc_address);
  library.find("ggml_backend_graph_compute", host.graph_compute);
  library.find("ggml_init", builder.init);
  library.find("ggml_free", builder.free);
  library.find("ggml_new_tensor_4d", builder.new_tensor_4d);
  library.find("ggml_view_4d", builder.view_4d);
  library.find("ggml_reshape_4d", builder.reshape_4d);
  library.find("ggml_permute", builder.permute);
  library.find("ggml_transpose", builder.transpose);
  library.find("ggml_flash_attn_ext", builder.flash_attn_ext);
  library.find("ggml_set_name", builder.set_name);
  library.find("ggml_get_data", builder.get_data);
  library.find("ggml_new_graph", builder.new_graph);
  library.find("ggml_build_forward_expand", builder.build_forward_expand);
  library.find("ggml_backend_name", builder.backend_name);
  library.find("ggml_backend_graph_compute_async", builder.graph_compute_async);
}

bool has_shape(const Tensor& tensor, Type type, std::array<std::int64_t, 4> ne, std::size_t size) {
  if (tensor.type != type) return false;
  for (int i = 0; i < 4; ++i) {
    if (tensor.ne[i] != ne[static_cast<std::size_t>(i)] || tensor.nb[i] != size) return false;
    size *= static_cast<std::size_t>(tensor.ne[i]);
  }
  return true;
}

float float_parameter(const Tensor& op, int i) {
  float value;
  std::memcpy(&value, &op.op_params[i], sizeof value);
  return value;
}

// Builds one of every operation that the plugin meets and reads it back through abi.h.
bool check_tensors(const Builder& ggml, Context* context, Host& host) {
  Tensor* query = ggml.new_tensor_4d(context, kF32, 8, 3, 4, 5);
  Tensor* cache = ggml.new_tensor_4d(context, kF16, 8, 7, 2, 5);
  Tensor* mask = ggml.new_tensor_4d(context, kF16, 7, 3, 1, 5);
  ggml.set_name(cache, "cache");
  Tensor* key = ggml.view_4d(context, cache, 8, 6, 2, 5, 16, 112, 224, 16);
  Tensor* value = ggml.view_4d(context, cache, 8, 6, 2, 5, 16, 112, 224, 0);
  Tensor* attention = ggml.flash_attn_ext(context, query, key, value, mask, 0.5f, 2.0f, 4.0f);
  Graph* graph = ggml.new_graph(context);
  ggml.build_forward_expand(graph, attention);

  host.operations = {.none = query->op,
                     .view = key->op,
                     .reshape = ggml.reshape_4d(context, query, 8, 4, 3, 5)->op,
                     .permute = ggml.permute(context, query, 0, 2, 1, 3)->op,
                     .transpose = ggml.transpose(context, query)->op,
                     .flash_attention = attention->op};
  // GGML_TENSOR_FLAG_COMPUTE; older versions compute every node and set nothing.
  constexpr std::int32_t kComputeFlag = 16;
  host.compute_flag = attention->flags & kComputeFlag;

  return has_shape(*query, kF32, {8, 3, 4, 5}, 4) && has_shape(*mask, kF16, {7, 3, 1, 5}, 2) &&
         has_shape(*attention, kF32, {8, 4, 3, 5}, 4) && key->nb[1] == 16 && key->nb[2] == 112 &&
         key->nb[3] == 224 && key->view_src == cache && key->view_offs == 16 && attention->src[0] == query &&
         attention->src[1] == key && attention->src[2] == value && attention->src[3] == mask &&
         attention->src[4] == nullptr && attention->view_src == nullptr && query->src[0] == nullptr &&
         float_parameter(*attention, 0) == 0.5f && float_parameter(*attention, 1) == 2.0f &&
         float_parameter(*attention, 2) == 4.0f && query->data == ggml.get_data(query) && query->data &&
         std::strcmp(cache->name, "cache") == 0 && host.graph_n_nodes(graph) >= 1 &&
         host.graph_node(graph, host.graph_n_nodes(graph) - 1) == attention;
}

// A backend object whose every word is a function that says which word it is.
int called_word;

template <std::size_t word>
int call_word(void*, void*) {
  called_word = static_cast<int>(word);
  return 0;
}

template <std::size_t... words>
std::array<void*, sizeof...(words)> make_words(std::index_sequence<words...>) {
  return {reinterpret_cast<void*>(&call_word<words>)...};
}

bool find_layout(const Builder& ggml, Host& host) {
  auto words = make_words(std::make_index_sequence<BackendLayout::kWords>());
  auto* backend = reinterpret_cast<Backend*>(words.data());
  called_word = 0;
  static_cast<void>(ggml.backend_name(backend));
  if (called_word != BackendLayout::kGetName) return false;
  host.free(backend);
  if (called_word != BackendLayout::kFree) return false;
  static_cast<void>(ggml.graph_compute_async(backend, nullptr));
  host.layout.graph_compute = called_word;
  const void* device = host.device_of(backend);
  for (int i = 0; i < BackendLayout::kWords; ++i) {
    if (words[static_cast<std::size_t>(i)] == device) host.layout.device = i;
  }
  return host.layout.graph_compute > BackendLayout::kFree && host.layout.device > host.layout.graph_compute;
}

}  // namespace

std::string bind_host(const void* caller, Host& host) {
  Library library(caller);
  Builder builder{};
  find_functions(library, host, builder);
  if (!library.missing().empty()) return "this ggml has no function " + library.missing();
  Library optional(caller);
  optional.find("ggml_log_internal", host.log);
  optional.find("gguf_init_from_file", host.gguf_open);
  optional.find("gguf_free", host.gguf_free);
  optional.find("gguf_find_key", host.gguf_find_key);
  optional.find("gguf_get_kv_type", host.gguf_value_type);
  optional.find("gguf_get_val_str", host.gguf_text);

  // A tensor's own header of 32 bytes comes with it.
  const std::size_t size = host.tensor_overhead() - 32;
  if (size != sizeof(Tensor)) {
    return "tensors of ggml " + std::string(host.version()) + " have " + std::to_string(size) +
           " bytes, the plugin knows those of " + std::to_string(sizeof(Tensor));
  }
  if (std::strcmp(host.type_name(kBf16), "bf16") != 0) return "type 30 of this ggml is not bf16";
  Context* context =
      builder.init({16 * host.tensor_overhead() + host.graph_overhead() + (1 << 16), nullptr, false});
  const bool known = context && check_tensors(builder, context, host) && find_layout(builder, host);
  if (context) builder.free(context);
  return known ? "" : "ggml " + std::string(host.version()) + " keeps its tensors or backends in another way";
}

void log(const Host& host, LogLevel level, const std::string& text) {
  if (host.log) {
    host.log(static_cast<int>(level), "minference: %s\n", text.c_str());
  } else {
    std::fprintf(stderr, "minference: %s\n", text.c_str());
  }
}

}  // namespace minference::ggml
