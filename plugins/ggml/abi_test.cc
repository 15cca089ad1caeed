// abi.h against the headers of a ggml; compiled with the tests in tests/engines/llama/ops.
#include "abi.h"

#include <ggml-backend.h>
#include <ggml.h>
#if __has_include(<ggml-backend-impl.h>)
#include <ggml-backend-impl.h>
#endif

#include <cstddef>

namespace ours = minference::ggml;

#define SAME_FIELD(our_struct, our_field, their_struct, their_field)                      \
  static_assert(offsetof(our_struct, our_field) == offsetof(their_struct, their_field) && \
                sizeof(our_struct::our_field) == sizeof(their_struct::their_field))

static_assert(sizeof(ours::Tensor) == sizeof(ggml_tensor));
SAME_FIELD(ours::Tensor, type, ggml_tensor, type);
SAME_FIELD(ours::Tensor, buffer, ggml_tensor, buffer);
SAME_FIELD(ours::Tensor, ne, ggml_tensor, ne);
SAME_FIELD(ours::Tensor, nb, ggml_tensor, nb);
SAME_FIELD(ours::Tensor, op, ggml_tensor, op);
SAME_FIELD(ours::Tensor, op_params, ggml_tensor, op_params);
SAME_FIELD(ours::Tensor, flags, ggml_tensor, flags);
SAME_FIELD(ours::Tensor, src, ggml_tensor, src);
SAME_FIELD(ours::Tensor, view_src, ggml_tensor, view_src);
SAME_FIELD(ours::Tensor, view_offs, ggml_tensor, view_offs);
SAME_FIELD(ours::Tensor, data, ggml_tensor, data);
SAME_FIELD(ours::Tensor, name, ggml_tensor, name);
SAME_FIELD(ours::Tensor, extra, ggml_tensor, extra);
static_assert(int{ours::kF32} == GGML_TYPE_F32 && int{ours::kF16} == GGML_TYPE_F16 &&
              int{ours::kBf16} == GGML_TYPE_BF16);
static_assert(int{ours::kFailed} == GGML_STATUS_FAILED && int{ours::kSuccess} == GGML_STATUS_SUCCESS);
static_assert(ours::kDeviceTypeCpu == GGML_BACKEND_DEVICE_TYPE_CPU &&
              ours::kDeviceTypeAccel == GGML_BACKEND_DEVICE_TYPE_ACCEL);

// Old versions have no mmap_support: a device writes no more than the host has room for, since caps are last
// and end at a multiple of 8 bytes either way.
static_assert(sizeof(ours::DeviceProperties) == sizeof(ggml_backend_dev_props));
SAME_FIELD(ours::DeviceProperties, name, ggml_backend_dev_props, name);
SAME_FIELD(ours::DeviceProperties, type, ggml_backend_dev_props, type);
SAME_FIELD(ours::DeviceProperties, device_id, ggml_backend_dev_props, device_id);
SAME_FIELD(ours::DeviceProperties, caps.async, ggml_backend_dev_props, caps.async);
SAME_FIELD(ours::DeviceProperties, caps.events, ggml_backend_dev_props, caps.events);

#if __has_include(<ggml-backend-impl.h>)
static_assert(ours::kApiVersion == GGML_BACKEND_API_VERSION);
static_assert(sizeof(ours::Device) == sizeof(ggml_backend_device));
SAME_FIELD(ours::Device, get_name, ggml_backend_device, iface.get_name);
SAME_FIELD(ours::Device, get_description, ggml_backend_device, iface.get_description);
SAME_FIELD(ours::Device, get_memory, ggml_backend_device, iface.get_memory);
SAME_FIELD(ours::Device, get_type, ggml_backend_device, iface.get_type);
SAME_FIELD(ours::Device, get_props, ggml_backend_device, iface.get_props);
SAME_FIELD(ours::Device, init_backend, ggml_backend_device, iface.init_backend);
SAME_FIELD(ours::Device, get_buffer_type, ggml_backend_device, iface.get_buffer_type);
SAME_FIELD(ours::Device, supports_op, ggml_backend_device, iface.supports_op);
SAME_FIELD(ours::Device, supports_buft, ggml_backend_device, iface.supports_buft);
SAME_FIELD(ours::Device, registry, ggml_backend_device, reg);
SAME_FIELD(ours::Device, context, ggml_backend_device, context);
static_assert(sizeof(ours::Registry) == sizeof(ggml_backend_reg));
SAME_FIELD(ours::Registry, api_version, ggml_backend_reg, api_version);
SAME_FIELD(ours::Registry, get_name, ggml_backend_reg, iface.get_name);
SAME_FIELD(ours::Registry, get_device_count, ggml_backend_reg, iface.get_device_count);
SAME_FIELD(ours::Registry, get_device, ggml_backend_reg, iface.get_device);
SAME_FIELD(ours::Registry, get_proc_address, ggml_backend_reg, iface.get_proc_address);
SAME_FIELD(ours::Registry, context, ggml_backend_reg, context);
#endif
