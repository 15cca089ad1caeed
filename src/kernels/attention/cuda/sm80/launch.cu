#include "kernels/attention/cuda/sm80/launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <numbers>

#include "cuda/error.h"
#include "kernels/attention/cuda/alignment.h"
#include "kernels/attention/cuda/cover.h"
#include "kernels/attention/cuda/sm80/arguments.h"

namespace minference::kernels::cuda::sm80 {

namespace {

using base::Arena;
using minference::cuda::check;

constexpr int kPrepareThreads = 256;

// One block a head.
__global__ void paint_cover_kernel(const sparse::DeviceIndex index, std::int64_t kv_len,
                                   std::uint32_t* covers) {
  const std::int64_t h = blockIdx.x, words = cover_words(kv_len);
  std::uint32_t* cover = covers + h * words;
  const sparse::DeviceHead head = index.heads[h];
  if (head.form != sparse::IndexForm::relative) return;
  for (std::int64_t word = threadIdx.x; word < words; word += kPrepareThreads) cover[word] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < head.num_tiles; i += kPrepareThreads) {
    const CoverBits covered = CoverBits::of_tile(kv_len, index.tiles[h * index.tile_capacity + i]);
#pragma unroll
    for (int word = 0; word < 3; ++word) {
      if (covered.bits[word] != 0) atomicOr(cover + covered.first_word + word, covered.bits[word]);
    }
  }
}

// A chunk of eight 16-bit elements a thread.
__global__ void pack_rows_kernel(base::InputHeads from, uint4* to) {
  const std::int64_t chunks = from.dim / 8;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  if (at >= from.rows * chunks) return;
  const auto* x = from.row<const std::uint16_t>(blockIdx.y, at / chunks) + at % chunks * 8;
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = x[2 * i] | static_cast<std::uint32_t>(x[2 * i + 1]) << 16;
  to[blockIdx.y * from.rows * chunks + at] = {words[0], words[1], words[2], words[3]};
}

// The call's device memory: the inputs on 16-byte boundaries, and the cover.
struct Workspace {
  base::InputHeads query, key, value;
  std::uint32_t* cover = nullptr;

  static Workspace of(const DeviceAttentionCall& call, Arena& arena) {
    Workspace workspace{aligned(call.query, arena), aligned(call.key, arena), aligned(call.value, arena)};
    if (call.index.heads != nullptr && call.index.tile_capacity > 0 && call.index.column_capacity > 0)
      workspace.cover = arena.take<std::uint32_t>(call.query.heads * cover_words(call.key.rows));
    return workspace;
  }

 private:
  static base::InputHeads aligned(base::InputHeads view, Arena& arena) {
    if (has_aligned_rows(view)) return view;
    view.data = arena.take<std::uint16_t>(view.heads * view.rows * view.dim);
    view.row_stride = view.dim;
    view.head_stride = view.rows * view.dim;
    return view;
  }
};

void pack_rows(const base::InputHeads& from, const base::InputHeads& to, Stream stream) {
  if (from.data == to.data) return;
  const auto blocks =
      static_cast<unsigned>(base::divide_up<std::int64_t>(from.rows * from.dim / 8, kPrepareThreads));
  pack_rows_kernel<<<dim3(blocks, static_cast<unsigned>(from.heads)), kPrepareThreads, 0, stream>>>(
      from, static_cast<uint4*>(const_cast<void*>(to.data)));
  check(cudaGetLastError(), "launching the copy of unaligned tensors");
}

ByteRows byte_rows(const base::InputHeads& view, const char* name) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const std::int64_t head_stride = takes_stride(view.heads) ? view.head_stride : 0;
  const std::int64_t row_stride = takes_stride(view.rows) ? view.row_stride : 0;
  base::require(row_stride < kMost && row_stride > -kMost, std::string(name) + ".row_stride",
                "must be below 2^30", row_stride, base::ErrorCode::unsupported);
  return {static_cast<const char*>(view.data), 2 * head_stride, static_cast<std::int32_t>(2 * row_stride)};
}

template <class Element>
void launch_for_head_dim(const DeviceAttentionCall& call, Arguments& arguments, Stream stream) {
  const std::int64_t head_dim = call.query.dim;
  if (head_dim <= 64) return launch_attention_kernels<Element, 64>(call, arguments, stream);
  if (head_dim <= 80) return launch_attention_kernels<Element, 80>(call, arguments, stream);
  if (head_dim <= 96) return launch_attention_kernels<Element, 96>(call, arguments, stream);
  if (head_dim <= 128) return launch_attention_kernels<Element, 128>(call, arguments, stream);
  if (head_dim <= 192) return launch_attention_kernels<Element, 192>(call, arguments, stream);
  launch_attention_kernels<Element, 256>(call, arguments, stream);
}

}  // namespace

bool serves_head_dim(std::int64_t head_dim) {
  return head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0;
}

std::size_t workspace_bytes(const DeviceAttentionCall& call) {
  Arena arena(nullptr);
  Workspace::of(call, arena);
  return arena.used();
}

void launch_attention(const DeviceAttentionCall& call, Arena& arena, Stream stream) {
  const Workspace workspace = Workspace::of(call, arena);
  Arguments arguments = {.query = byte_rows(workspace.query, "query"),
                         .key = byte_rows(workspace.key, "key"),
                         .value = byte_rows(workspace.value, "value"),
                         .out = call.out,
                         .out_aligned = has_aligned_rows(call.out),
                         .lse = call.lse,
                         .scale_log2 = call.softmax_scale * std::numbers::log2e_v<float>,
                         .head_dim = static_cast<std::int32_t>(call.query.dim),
                         .shape = {static_cast<std::int32_t>(call.query.rows),
                                   static_cast<std::int32_t>(call.key.rows), call.causal},
                         .schedule = {},
                         .index = call.index,
                         .cover = workspace.cover};
  pack_rows(call.query, workspace.query, stream);
  pack_rows(call.key, workspace.key, stream);
  pack_rows(call.value, workspace.value, stream);
  if (workspace.cover != nullptr) {
    paint_cover_kernel<<<static_cast<unsigned>(call.query.heads), kPrepareThreads, 0, stream>>>(
        call.index, call.key.rows, workspace.cover);
    check(cudaGetLastError(), "launching the painting of covers");
  }
  if (call.query.dtype == base::DType::bf16) {
    launch_for_head_dim<__nv_bfloat16>(call, arguments, stream);
  } else {
    launch_for_head_dim<__half>(call, arguments, stream);
  }
}

}  // namespace minference::kernels::cuda::sm80
