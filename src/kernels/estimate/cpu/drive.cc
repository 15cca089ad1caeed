#include "kernels/estimate/cpu/drive.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "base/aligned_buffer.h"
#include "cpu/denormals.h"

namespace minference::kernels::estimate {
namespace {

constexpr std::int64_t kLanes = kEstimateRows;

// Enough chunks for many workers, few enough to keep their statistics small at a million keys.
constexpr std::int64_t kMinChunkKeys = 1024;
constexpr std::int64_t kMaxChunks = 64;

std::int64_t chunk_keys_for(std::int64_t kv_len, std::int64_t block_keys) {
  const std::int64_t keys = std::max(kMinChunkKeys, (kv_len + kMaxChunks - 1) / kMaxChunks);
  return (keys + block_keys - 1) / block_keys * block_keys;
}

// query[h] -> packed [steps, 64], lanes before the first row zero.
void pack_query(const base::InputHeads& query, std::int64_t head, bool bf16_pairs, float* packed) {
  const std::int64_t words = bf16_pairs ? query.dim / 2 : query.dim;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = query.rows - kLanes + lane;
    if (row < 0) {
      for (std::int64_t j = 0; j < words; ++j) packed[j * kLanes + lane] = 0.0f;
    } else if (bf16_pairs) {
      const auto* values = query.row<const base::bfloat16>(head, row);
      for (std::int64_t j = 0; j < words; ++j)
        std::memcpy(packed + j * kLanes + lane, values + 2 * j, sizeof(float));
    } else {
      const std::int64_t start = head * query.head_stride + row * query.row_stride;
      for (std::int64_t j = 0; j < words; ++j)
        packed[j * kLanes + lane] = base::load_float(query.data, query.dtype, start + j);
    }
  }
}

// Chunk statistics of one head, [num_chunks, 64] each -> lse [64].
void combine(const float* row_max, const float* row_sum, std::int64_t num_chunks, std::int64_t first_lane,
             float* lse) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    float largest = kMasked;
    for (std::int64_t c = 0; c < num_chunks; ++c) largest = std::max(largest, row_max[c * kLanes + lane]);
    double sum = 0;
    for (std::int64_t c = 0; c < num_chunks; ++c)
      sum += double{row_sum[c * kLanes + lane]} * std::exp2(double{row_max[c * kLanes + lane]} - largest);
    lse[lane] = lane < first_lane ? -kMasked : static_cast<float>(largest + std::log2(sum));
  }
}

// Adds to a head's diagonal sums what each chunk left for the offsets that its successor wrote.
void add_carries(const float* carry, std::int64_t num_chunks, std::int64_t chunk_keys, std::int64_t kv_len,
                 float* diagonal_sums) {
  for (std::int64_t c = 0; c + 1 < num_chunks; ++c) {
    const std::int64_t first_offset = kv_len - (kLanes - 1) - (c + 1) * chunk_keys;
    for (std::int64_t i = std::max<std::int64_t>(0, -first_offset); i < kLanes - 1; ++i)
      diagonal_sums[first_offset + i] += carry[c * kLanes + i];
  }
}

// In units of log 2, and no number that a thread takes for zero: zero times the score of a masked key, -inf, is NaN.
float scale_of(const EstimateCall& call) {
  const float scale = call.softmax_scale * std::numbers::log2e_v<float>;
  return std::copysign(std::max(std::abs(scale), std::numeric_limits<float>::min()), scale);
}

}  // namespace

void drive(const Steps& steps, const EstimateCall& call, base::Executor& executor) {
  const base::InputHeads& query = call.query;
  const base::InputHeads& key = call.key;
  const std::int64_t kv_len = key.rows;
  if (query.rows == 0 || query.heads == 0) {
    for (std::int64_t h = 0; h < query.heads; ++h) {
      std::fill_n(call.column_sums + h * call.head_stride, kv_len, 0.0f);
      std::fill_n(call.diagonal_sums + h * call.head_stride, kv_len, 0.0f);
    }
    return;
  }

  const std::int64_t group = query.heads / key.heads;
  const std::int64_t chunk_keys = chunk_keys_for(kv_len, steps.block_keys);
  const std::int64_t num_chunks = (kv_len + chunk_keys - 1) / chunk_keys;
  const std::int64_t packed_floats = (steps.bf16_pairs ? query.dim / 2 : query.dim) * kLanes;
  const std::int64_t statistics_floats = num_chunks * kLanes;

  base::AlignedBuffer<float> packed(query.heads * packed_floats);
  base::AlignedBuffer<float> row_max(query.heads * statistics_floats);  // then the carries
  base::AlignedBuffer<float> row_sum(query.heads * statistics_floats);
  base::AlignedBuffer<float> lse(query.heads * kLanes);
  const std::int64_t worker_floats = (scratch_floats(steps.block_keys, key.dim) + 15) / 16 * 16;
  base::AlignedBuffer<float> scratch(executor.num_workers() * worker_floats);

  executor.parallel_for(query.heads, [&](std::int64_t head, int) {
    pack_query(query, head, steps.bf16_pairs, packed.data() + head * packed_floats);
  });

  const auto chunk_of = [&](std::int64_t kv_head, std::int64_t c) {
    return KeyChunk{.key = static_cast<const char*>(key.data) +
                           kv_head * key.head_stride * static_cast<std::int64_t>(base::size_of(key.dtype)),
                    .dtype = key.dtype,
                    .row_stride = key.row_stride,
                    .head_dim = key.dim,
                    .kv_len = kv_len,
                    .begin = c * chunk_keys,
                    .end = std::min(kv_len, (c + 1) * chunk_keys),
                    .num_heads = group,
                    .queries = packed.data() + kv_head * group * packed_floats,
                    .query_stride = packed_floats,
                    .scale = scale_of(call)};
  };

  executor.parallel_for(key.heads * num_chunks, [&](std::int64_t task, int worker) {
    const std::int64_t kv_head = task / num_chunks, c = task % num_chunks;
    const cpu::DenormalsAreZero denormals;
    const std::int64_t first = kv_head * group * statistics_floats + c * kLanes;
    steps.scan(chunk_of(kv_head, c), {row_max.data() + first, row_sum.data() + first, statistics_floats},
               scratch.data() + worker * worker_floats);
  });

  const std::int64_t first_lane = std::max<std::int64_t>(0, kLanes - query.rows);
  executor.parallel_for(query.heads, [&](std::int64_t head, int) {
    combine(row_max.data() + head * statistics_floats, row_sum.data() + head * statistics_floats, num_chunks,
            first_lane, lse.data() + head * kLanes);
  });

  float* carry = row_max.data();
  executor.parallel_for(key.heads * num_chunks, [&](std::int64_t task, int worker) {
    const std::int64_t kv_head = task / num_chunks, c = task % num_chunks, head = kv_head * group;
    const cpu::DenormalsAreZero denormals;
    const ChunkSums out{.lse = lse.data() + head * kLanes,
                        .column_sums = call.column_sums + head * call.head_stride,
                        .diagonal_sums = call.diagonal_sums + head * call.head_stride,
                        .head_stride = call.head_stride,
                        .carry = carry + head * statistics_floats + c * kLanes,
                        .carry_stride = statistics_floats};
    steps.accumulate(chunk_of(kv_head, c), out, scratch.data() + worker * worker_floats);
  });

  executor.parallel_for(query.heads, [&](std::int64_t head, int) {
    add_carries(carry + head * statistics_floats, num_chunks, chunk_keys, kv_len,
                call.diagonal_sums + head * call.head_stride);
  });
}

}  // namespace minference::kernels::estimate
