#pragma once

#include <cstddef>
#include <cstdint>

// The part of ggml's binary interface that a backend meets. ggml installs no header for backends, and the plugin
// is one binary for many versions: what has moved between versions, operation numbers and the table of a
// backend, is not written here but asked of the running ggml (host.h). abi_test.cc compares the rest with ggml's
// own headers, and host.cc with the ggml that loads the plugin.
namespace minference::ggml {

// Numbers of types are those of GGUF files and never change.
enum Type : std::int32_t { kF32 = 0, kF16 = 1, kBf16 = 30 };

enum Status : int { kFailed = -1, kSuccess = 0 };

inline constexpr int kApiVersion = 2;
inline constexpr int kDeviceTypeCpu = 0, kDeviceTypeAccel = 3;

struct Graph;
struct Buffer;
struct BufferType;
struct Device;
struct Registry;
// A table of function pointers between two others; see BackendLayout in host.h.
struct Backend;

// Dimensions innermost first: `ne` counts elements, `nb` bytes from one to the next.
struct Tensor {
  Type type;
  Buffer* buffer;
  std::int64_t ne[4];
  std::size_t nb[4];
  std::int32_t op;
  std::int32_t op_params[16];
  std::int32_t flags;
  Tensor* src[10];
  Tensor* view_src;
  std::size_t view_offs;
  void* data;
  char name[64];
  void* extra;
  char padding[8];
};
static_assert(sizeof(Tensor) == 336);

struct DeviceCapabilities {
  bool async, host_buffer, buffer_from_host_ptr, events, mmap_support;
};

struct DeviceProperties {
  const char* name;
  const char* description;
  std::size_t memory_free, memory_total;
  int type;
  const char* device_id;
  DeviceCapabilities caps;
};

struct Device {
  const char* (*get_name)(Device* device);
  const char* (*get_description)(Device* device);
  void (*get_memory)(Device* device, std::size_t* free, std::size_t* total);
  int (*get_type)(Device* device);
  void (*get_props)(Device* device, DeviceProperties* properties);
  Backend* (*init_backend)(Device* device, const char* parameters);
  BufferType* (*get_buffer_type)(Device* device);
  void* get_host_buffer_type;
  void* buffer_from_host_ptr;
  bool (*supports_op)(Device* device, const Tensor* op);
  bool (*supports_buft)(Device* device, BufferType* type);
  void* offload_op;
  void* event_new;
  void* event_free;
  void* event_synchronize;
  Registry* registry;
  void* context;
};

struct Registry {
  int api_version;
  const char* (*get_name)(Registry* registry);
  std::size_t (*get_device_count)(Registry* registry);
  Device* (*get_device)(Registry* registry, std::size_t i);
  void* (*get_proc_address)(Registry* registry, const char* name);
  void* context;
};

}  // namespace minference::ggml
