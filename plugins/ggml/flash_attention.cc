#include "flash_attention.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "convert.h"

namespace minference::ggml {
namespace {

std::int64_t size_of(Type type) {
  return type == kF32 ? 4 : 2;
}

std::int32_t dtype_of(Type type) {
  return type == kF32 ? MINFERENCE_F32 : type == kF16 ? MINFERENCE_F16 : MINFERENCE_BF16;
}

float float_parameter(const Tensor& op, int i) {
  float value;
  std::memcpy(&value, &op.op_params[i], sizeof value);
  return value;
}

// [D, length, heads, streams] of which one stream's rows [begin, begin + length) are seen as [1, heads, length,
// D].
minference_tensor stream_rows(const Tensor& tensor, std::int64_t stream, std::int64_t begin,
                              std::int64_t length) {
  const std::int64_t size = size_of(tensor.type);
  const auto stride = [&](int i) { return static_cast<std::int64_t>(tensor.nb[i]) / size; };
  return {static_cast<char*>(tensor.data) + (stream * stride(3) + begin * stride(1)) * size,
          {1, tensor.ne[2], length, tensor.ne[0]},
          {stride(3), stride(2), stride(1), 1},
          dtype_of(tensor.type),
          0};
}

// The same of contiguous memory [streams, length, heads, D].
minference_tensor packed_rows(void* data, Type type, const Tensor& shape, std::int64_t stream,
                              std::int64_t begin, std::int64_t length) {
  const std::int64_t dim = shape.ne[0], row = shape.ne[2] * dim;
  return {static_cast<char*>(data) + (stream * shape.ne[1] + begin) * row * size_of(type),
          {1, shape.ne[2], length, dim},
          {shape.ne[1] * row, dim, row, 1},
          dtype_of(type),
          0};
}

// The strides of a tensor of rows that the library can read in place.
bool has_readable_rows(const Tensor& tensor) {
  const auto size = static_cast<std::size_t>(size_of(tensor.type));
  return tensor.nb[0] == size && tensor.nb[1] % size == 0 && tensor.nb[2] % size == 0 &&
         tensor.nb[3] % size == 0;
}

// The entry of the OpenMP runtime whose threads ggml works with, or null.
void* find_openmp() {
  for (const char* name : {"libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so"}) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
      // Never closed: executors keep the address.
      if (void* entry = dlsym(library, "GOMP_parallel")) return entry;
      dlclose(library);
    }
  }
  return nullptr;
}

// llama.cpp names the tensors of its cache so.
int layer_of(const Tensor& key) {
  const Tensor* cache = &key;
  while (cache->view_src) cache = cache->view_src;
  int layer = -1;
  return std::sscanf(cache->name, "cache_k_l%d", &layer) == 1 ? layer : -1;
}

}  // namespace

bool supports_attention(const Host& host, const Tensor& op) {
  const Tensor *query = op.src[0], *key = op.src[1], *value = op.src[2], *mask = op.src[3];
  if (op.op != host.operations.flash_attention || !query || !key || !value || !mask) return false;
  // Sinks, and what later versions may add; parameter 3 is a precision.
  for (int i = 4; i < 10; ++i) {
    if (op.src[i]) return false;
  }
  for (int i = 4; i < 16; ++i) {
    if (op.op_params[i] != 0) return false;
  }
  const bool known_types = query->type == kF32 && op.type == kF32 && mask->type == kF16 &&
                           (key->type == kF32 || key->type == kF16 || key->type == kBf16) &&
                           value->type == key->type;
  const float scale = float_parameter(op, 0), max_bias = float_parameter(op, 1),
              soft_cap = float_parameter(op, 2);
  // The library takes a scale of 0 for its default.
  return known_types && scale != 0 && max_bias == 0 && soft_cap == 0 && query->ne[1] >= kMinRows &&
         query->ne[0] == value->ne[0] && query->ne[0] % 8 == 0 && query->ne[0] <= 256 && mask->ne[2] == 1 &&
         (mask->ne[3] == 1 || mask->ne[3] == query->ne[3]) && key->ne[3] == query->ne[3] &&
         query->ne[2] % key->ne[2] == 0 && query->ne[1] <= key->ne[1] && has_readable_rows(*query) &&
         has_readable_rows(*key) && has_readable_rows(*value) && has_readable_rows(*mask) &&
         has_readable_rows(op);
}

FlashAttention::FlashAttention(const Host& host, HeadPatterns patterns)
    : host_(host), patterns_(std::move(patterns)) {}

FlashAttention::~FlashAttention() = default;

void FlashAttention::start_threads() {
  if (context_ && executor_->num_workers() == num_threads_) return;
  context_.reset();
  if (void* openmp = find_openmp()) {
    executor_ = base::make_host_executor(num_threads_, minference_openmp_parallel_for, openmp);
  } else {
    executor_ = base::make_thread_pool(num_threads_);
  }
  minference_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = num_threads_;
  options.parallel_for_state = executor_.get();
  options.parallel_for = [](void* state, std::int64_t num_tasks, void (*task)(void*, std::int64_t),
                            void* argument) {
    static_cast<base::Executor*>(state)->parallel_for(
        num_tasks, [&](std::int64_t i, int) noexcept { task(argument, i); });
  };
  minference_context* context = nullptr;
  if (minference_context_create(&options, &context) != MINFERENCE_OK) {
    throw std::runtime_error(minference_last_error());
  }
  context_.reset(context);
}

const FlashAttention::ReadMask& FlashAttention::read(const Tensor& mask, std::int64_t num_rows, int layer) {
  const auto view = [&](std::int64_t stream) {
    return MaskView{static_cast<const std::uint16_t*>(mask.data) +
                        stream * static_cast<std::int64_t>(mask.nb[3] / sizeof(std::uint16_t)),
                    num_rows, mask.ne[0], static_cast<std::int64_t>(mask.nb[1] / sizeof(std::uint16_t))};
  };
  // A later layer of the same pass reads the same mask. Passes begin at the first layer.
  if (layer < 0 || layer <= last_layer_) masks_.clear();
  last_layer_ = layer;
  for (const ReadMask& known : masks_) {
    if (known.data != mask.data || known.num_rows != num_rows || known.num_keys != mask.ne[0] ||
        known.num_streams != mask.ne[3])
      continue;
    bool same = true;
    for (std::int64_t stream = 0; known.usable && same && stream < mask.ne[3]; ++stream) {
      same = looks_like(view(stream), known.groups[static_cast<std::size_t>(stream)]);
    }
    if (same) return known;
  }

  ReadMask& entry = masks_.emplace_back(
      ReadMask{mask.data, num_rows, mask.ne[0], mask.ne[3],
               std::vector<std::vector<RowGroup>>(static_cast<std::size_t>(mask.ne[3])), true});
  for (std::int64_t stream = 0; stream < mask.ne[3]; ++stream) {
    entry.usable = entry.usable && read_mask(view(stream), entry.groups[static_cast<std::size_t>(stream)]);
  }
  return entry;
}

bool FlashAttention::compute(const Tensor& op) {
  const auto begin = std::chrono::steady_clock::now();
  const bool computed = compute_with_mask(op);
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return computed;
}

bool FlashAttention::compute_with_mask(const Tensor& op) {
  const Tensor &query = *op.src[0], &key = *op.src[1], &mask = *op.src[3];
  const std::int64_t num_rows = query.ne[1], num_heads = query.ne[2], num_streams = query.ne[3];
  const int layer = layer_of(key);
  const ReadMask& rows = read(mask, num_rows, layer);
  if (!rows.usable) return false;
  start_threads();

  bool matches = true;
  const auto heads = patterns_.layer(layer, num_heads, matches);
  if (!matches && !warned_) {
    warned_ = true;
    log(host_, LogLevel::warning,
        "the head patterns " + patterns_.description() + " are not of layer " + std::to_string(layer) +
            " with " + std::to_string(num_heads) + " heads: adaptive ones are used");
  }

  const std::int64_t dim = query.ne[0], row_size = num_heads * dim;
  if (key.type != kF32) {
    query_.resize(static_cast<std::size_t>(num_streams * num_rows * row_size));
    out_.resize(query_.size());
    executor_->parallel_for(num_streams * num_rows, [&](std::int64_t i, int) noexcept {
      const auto* from =
          static_cast<const char*>(query.data) + i % num_rows * query.nb[1] + i / num_rows * query.nb[3];
      for (std::int64_t head = 0; head < num_heads; ++head) {
        from_f32(reinterpret_cast<const float*>(from + head * query.nb[2]), key.type,
                 query_.data() + i * row_size + head * dim, dim);
      }
    });
  }
  for (std::int64_t stream = 0; stream < num_streams; ++stream) {
    for (const RowGroup& group : rows.groups[static_cast<std::size_t>(mask.ne[3] == 1 ? 0 : stream)]) {
      prefill(op, stream, group, heads);
    }
  }
  if (key.type != kF32) {
    executor_->parallel_for(num_streams * num_rows, [&](std::int64_t i, int) noexcept {
      auto* to = static_cast<char*>(op.data) + i % num_rows * op.nb[2] + i / num_rows * op.nb[3];
      for (std::int64_t head = 0; head < num_heads; ++head) {
        to_f32(out_.data() + i * row_size + head * dim, key.type,
               reinterpret_cast<float*>(to + head * op.nb[1]), dim);
      }
    });
  }
  ++calls_;
  return true;
}

minference_tensor FlashAttention::gathered(const Tensor& tensor, std::int64_t stream, const RowGroup& group,
                                           std::vector<std::uint8_t>& memory) {
  const std::int64_t num_keys = group.num_keys(), num_heads = tensor.ne[2], dim = tensor.ne[0];
  if (group.keys.size() == 1) return stream_rows(tensor, stream, group.keys.front().begin, num_keys);
  const std::int64_t row_bytes = dim * size_of(tensor.type);
  memory.resize(static_cast<std::size_t>(num_heads * num_keys * row_bytes));
  executor_->parallel_for(num_heads, [&](std::int64_t head, int) noexcept {
    std::uint8_t* to = memory.data() + head * num_keys * row_bytes;
    const char* rows = static_cast<const char*>(tensor.data) + head * tensor.nb[2] + stream * tensor.nb[3];
    for (const KeyRun& run : group.keys) {
      for (std::int64_t i = run.begin; i < run.end; ++i, to += row_bytes) {
        std::memcpy(to, rows + i * tensor.nb[1], static_cast<std::size_t>(row_bytes));
      }
    }
  });
  return {memory.data(),
          {1, num_heads, num_keys, dim},
          {num_heads * num_keys * dim, num_keys * dim, dim, 1},
          dtype_of(tensor.type),
          0};
}

void FlashAttention::prefill(const Tensor& op, std::int64_t stream, const RowGroup& group,
                             std::span<const minference_head_pattern> heads) {
  const Tensor& query = *op.src[0];
  const Type type = op.src[1]->type;
  minference_prefill_args args{};
  args.struct_size = sizeof args;
  args.key = gathered(*op.src[1], stream, group, key_);
  args.value = gathered(*op.src[2], stream, group, value_);
  if (type == kF32) {
    args.query = stream_rows(query, stream, group.row_begin, group.num_rows);
    // [D, heads, length, streams], unlike its sources.
    Tensor out = op;
    std::swap(out.ne[1], out.ne[2]);
    std::swap(out.nb[1], out.nb[2]);
    args.out = stream_rows(out, stream, group.row_begin, group.num_rows);
  } else {
    args.query = packed_rows(query_.data(), type, query, stream, group.row_begin, group.num_rows);
    args.out = packed_rows(out_.data(), type, query, stream, group.row_begin, group.num_rows);
  }
  args.softmax_scale = float_parameter(op, 0);
  args.heads = heads.data();
  args.num_heads = static_cast<std::int64_t>(heads.size());
  std::vector<minference_head_pattern> windows;
  if (group.window > 0) {
    windows.assign(heads.size(), {MINFERENCE_A_SHAPE, {0, static_cast<std::int32_t>(group.window)}, 0, 0});
    args.heads = windows.data();
    args.fallback = MINFERENCE_FALLBACK_OFF;
  }
  minference_statistics statistics{};
  statistics.struct_size = sizeof statistics;
  if (minference_prefill(context_.get(), &args, &statistics) != MINFERENCE_OK) {
    throw std::runtime_error(minference_last_error());
  }
  pairs_ += statistics.pairs;
  all_pairs_ += statistics.all_pairs;
  seconds_estimate_ += statistics.seconds_estimate;
  seconds_select_ += statistics.seconds_select + statistics.seconds_index;
  seconds_attend_ += statistics.seconds_attend;
}

std::string FlashAttention::summary() const {
  if (calls_ == 0) return "";
  char text[200];
  std::snprintf(
      text, sizeof text,
      "%lld calls, density %.1f %%, %.3f s: estimation %.3f s, selection %.3f s, attention %.3f s",
      static_cast<long long>(calls_),
      100 * static_cast<double>(pairs_) / static_cast<double>(std::max<std::int64_t>(all_pairs_, 1)),
      seconds_, seconds_estimate_, seconds_select_, seconds_attend_);
  return text;
}

}  // namespace minference::ggml
