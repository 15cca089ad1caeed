#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/arena.h"
#include "cuda/error.h"
#include "kernels/attention/cuda/alignment.h"
#include "kernels/attention/cuda/attention_cuda.h"
#include "kernels/attention/cuda/sm80/launch.h"
#include "kernels/attention/cuda/sm90/launch.h"

namespace minference::kernels::cuda {

namespace {

using base::Arena;
using base::require;

constexpr auto kUnsupported = base::ErrorCode::unsupported;

// What a call asks for beyond what every kernel does.
struct Demands {
  bool dense_rows = false, any_layout = false, many_blocks = false;

  static Demands of(const DeviceAttentionCall& call) {
    return {.dense_rows = call.index.last_dense_rows != nullptr,
            .any_layout = !(suits_copy_engine(call.query) && suits_copy_engine(call.key) &&
                            suits_copy_engine(call.value) && suits_copy_engine(call.out)),
            .many_blocks = !sm90::can_plan_blocks(call)};
  }

  bool none() const { return !(dense_rows || any_layout || many_blocks); }
};

// One kernel and what it serves.
struct KernelRow {
  AttentionKernel kernel;
  const char* name;
  int least_capability, most_capability;  // 10 times the device's compute capability
  bool (*serves_head_dim)(std::int64_t head_dim);
  bool serves_demands;
  std::size_t (*workspace_bytes)(const DeviceAttentionCall& call);
  void (*launch)(const DeviceAttentionCall& call, Arena& workspace, Stream stream);

  bool serves(const DeviceAttentionCall& call, int capability) const {
    return capability >= least_capability && capability <= most_capability &&
           serves_head_dim(call.query.dim) && (serves_demands || Demands::of(call).none());
  }
};

// Best first. Code for sm_90a runs on that compute capability only; code for sm_80 is there as PTX as well.
constexpr KernelRow kKernels[] = {
    {AttentionKernel::sm90, "sm90", 90, 90, sm90::serves_head_dim, false, sm90::workspace_bytes,
     sm90::launch_attention},
    {AttentionKernel::sm80, "sm80", 80, std::numeric_limits<int>::max(), sm80::serves_head_dim, true,
     sm80::workspace_bytes, sm80::launch_attention},
};

int compute_capability() {
  using minference::cuda::check;
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for its kind");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for its kind");
  return 10 * major + minor;
}

const KernelRow& kernel_for(const DeviceAttentionCall& call) {
  const int capability = compute_capability();
  require(capability >= 80, "device", "must have compute capability 8.0 or later",
          std::to_string(capability / 10) + "." + std::to_string(capability % 10), kUnsupported);
  for (const KernelRow& row : kKernels) {
    const bool wanted = call.kernel == AttentionKernel::best || call.kernel == row.kernel;
    if (wanted && row.serves(call, capability)) return row;
    require(call.kernel != row.kernel, "kernel", "must be one that serves this call on this device", row.name,
            kUnsupported);
  }
  throw base::Error(base::ErrorCode::invalid_argument, "kernel must be best, sm90 or sm80");
}

template <class View, class Like>
void require_shape(const View& view, const std::string& name, const Like& like,
                   const std::string& like_name) {
  const auto same = [&](const char* dimension, std::int64_t actual, std::int64_t wanted) {
    require(actual == wanted, name + "." + dimension,
            "must be " + like_name + "." + dimension + " = " + std::to_string(wanted), actual);
  };
  same("heads", view.heads, like.heads);
  same("rows", view.rows, like.rows);
  same("dim", view.dim, like.dim);
}

void check_call(const DeviceAttentionCall& call) {
  const auto& [query, key, value, out, lse, scale, index, causal, kernel] = call;
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 27;  // an entry of sm90 holds a start in 29 bits
  require(key.heads > 0 && query.heads > 0 && query.heads % key.heads == 0, "query.heads",
          "must be a positive multiple of key.heads", query.heads);
  require(query.rows >= 0 && query.rows <= key.rows, "q_len", "must be in [0, kv_len]", query.rows);
  require(key.rows <= kMaxLength, "kv_len", "must be at most 2^27", key.rows);
  require_shape(value, "value", key, "key");
  require_shape(out, "out", query, "query");
  require(query.dim == key.dim, "query.dim", "must be key.dim = " + std::to_string(key.dim), query.dim);
  const auto same_dtype = [&](base::DType dtype, const char* name) {
    require(dtype == query.dtype, std::string(name) + ".dtype",
            std::string("must be query's ") + base::name_of(query.dtype), base::name_of(dtype));
  };
  same_dtype(key.dtype, "key");
  same_dtype(value.dtype, "value");
  same_dtype(out.dtype, "out");
  require(query.dtype != base::DType::f32, "dtype", "must be float16 or bfloat16", base::name_of(query.dtype),
          kUnsupported);
  require(sm80::serves_head_dim(query.dim), "head_dim", "must be a multiple of 8 from 8 to 256", query.dim,
          kUnsupported);
  require(scale > 0.0f && std::isfinite(scale), "softmax_scale", "must be positive and finite", scale);
  require(index.tile_capacity >= 0 && index.column_capacity >= 0 && index.block_capacity >= 0,
          "index capacities", "must not be negative",
          std::min({index.tile_capacity, index.column_capacity, index.block_capacity}));
  require(index.heads != nullptr || (index.row_offsets == nullptr && index.last_dense_rows == nullptr),
          "index.heads", "must not be null with block lists or dense rows", "null");
  require(query.heads * (query.rows / sparse::kRowBlock + 2) < std::numeric_limits<std::int32_t>::max(),
          "query", "must have fewer rows and heads", query.rows, kUnsupported);
}

}  // namespace

std::size_t attention_workspace_bytes(const DeviceAttentionCall& call) {
  check_call(call);
  return kernel_for(call).workspace_bytes(call);
}

void attention(const DeviceAttentionCall& call, void* workspace, std::size_t workspace_bytes, Stream stream) {
  check_call(call);
  const KernelRow& kernel = kernel_for(call);
  if (call.query.rows == 0) return;
  const std::size_t needed = kernel.workspace_bytes(call);
  require(needed <= workspace_bytes && (workspace != nullptr || needed == 0), "workspace_bytes",
          "must be at least " + std::to_string(needed), workspace_bytes);
  Arena arena(workspace);
  kernel.launch(call, arena, stream);
}

}  // namespace minference::kernels::cuda
