#pragma once

#include <string>

#include "abi.h"

namespace minference::ggml {

// Where the ggml that loaded the plugin keeps things in a backend object, in words: a table of functions that has
// grown in the middle, and the device behind it.
struct BackendLayout {
  static constexpr int kWords = 64;  // more than any table has
  static constexpr int kGuid = 0, kGetName = 1, kFree = 2;
  int graph_compute = 0;
  int device = 0;
};

// A GGUF file that is open, its metadata in memory.
struct Gguf;

// Operation numbers, which shift between versions.
struct Operations {
  std::int32_t none, view, reshape, permute, transpose, flash_attention;
};

// The functions of the ggml that loaded the plugin. They are looked up in the library that called it, because a
// process may hold several ggml, and hosts such as Python load theirs out of the linker's sight.
struct Host {
  const char* (*version)();
  const char* (*type_name)(Type type);
  std::size_t (*tensor_overhead)();
  std::size_t (*graph_overhead)();
  int (*graph_n_nodes)(Graph* graph);
  Tensor* (*graph_node)(Graph* graph, int i);
  BufferType* (*cpu_buffer_type)();
  bool (*is_host)(BufferType* type);
  Backend* (*init_by_type)(int device_type, const char* parameters);
  void (*free)(Backend* backend);
  Device* (*device_of)(Backend* backend);
  Registry* (*registry_of)(Device* device);
  void* (*proc_address)(Registry* registry, const char* name);
  Status (*graph_compute)(Backend* backend, Graph* graph);
  // Not in ggml's public headers; may be missing.
  void (*log)(int level, const char* format, ...);
  // Readers of GGUF files; may be missing in a program that holds ggml itself.
  struct GgufParameters {
    bool no_alloc;
    void* context;
  };
  Gguf* (*gguf_open)(const char* path, GgufParameters parameters);
  void (*gguf_free)(Gguf* file);
  std::int64_t (*gguf_find_key)(const Gguf* file, const char* key);
  int (*gguf_value_type)(const Gguf* file, std::int64_t key);
  const char* (*gguf_text)(const Gguf* file, std::int64_t key);

  Operations operations;
  BackendLayout layout;
  std::int32_t compute_flag;  // of nodes to be computed; 0 where ggml has no such flag
};

// Looks up the ggml that `caller`, an address, belongs to, and checks that it is as abi.h says. Returns what is
// wrong with it, "" when nothing is.
std::string bind_host(const void* caller, Host& host);

enum class LogLevel { info = 2, warning = 3, error = 4 };
// Into the log that the application has set for ggml, else to stderr.
void log(const Host& host, LogLevel level, const std::string& text);

}  // namespace minference::ggml
