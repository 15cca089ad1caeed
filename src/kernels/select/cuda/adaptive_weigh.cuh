#pragma once

#include <cfloat>

#include "kernels/select/cuda/adaptive.cuh"
#include "kernels/select/cuda/mass_histogram.cuh"

// Own masses and worths of a chunk of a head's keys and bands, and their histogram over thresholds.
namespace minference::kernels::cuda {

struct WeighMemory {
  MassHistogram histogram;
  double warp_mass[kWeighWarps];
};

// A warp's walk over its bands, upwards: a band's worth needs the keys of the next one, and a column that of
// the band before. Each lane has two adjacent offsets, and the keys at these distances.
class BandWalk {
 public:
  __device__ BandWalk(const AdaptiveHead& head, MassHistogram& histogram)
      : head_(head), histogram_(histogram) {}

  // Bands first .. end - 1; returns their diagonals' mass.
  __device__ double walk(int first, int end) {
    const Diagonals two_before = diagonals_of(load(first - 2));
    Sums sums = load(first - 1), next_sums = load(first);
    Diagonals diagonals = diagonals_of(sums);
    Columns columns = columns_of(first - 1, sums, two_before, diagonals);
    std::int32_t code_before = 0;
    double mass = 0;
#pragma unroll 1
    for (int band = first - 1; band < end; ++band) {
      const Sums after_next = load(band + 2);
      const Diagonals next_diagonals = diagonals_of(next_sums);
      const Columns next_columns = columns_of(band + 1, next_sums, diagonals, next_diagonals);
      const float worth = worth_of_band(band, sums, columns, next_columns);
      const std::int32_t code = code_of(worth);
      if (band >= first) {
        store(band, worth, columns);
        add_to_histogram(band, sums, columns, code_before, code, diagonals.all);
        mass += diagonals.all;
      }
      code_before = code;
      sums = next_sums, next_sums = after_next;
      diagonals = next_diagonals, columns = next_columns;
    }
    return mass;
  }

 private:
  struct Sums {
    float diagonals[2], columns[2];
  };
  struct Diagonals {
    double through[2];  // the band's, up to the lane's
    double all;
  };
  struct Columns {
    float own[2];
    double in_band[2], in_band_before[2];  // the diagonals that cross the column
    double own_before[2], all_own;
  };

  static __device__ int lane() {
    return static_cast<int>(threadIdx.x % 32);
  }
  static __device__ int distance_of(int band, int i) {
    return band * kBand + 2 * lane() + i;
  }
  __device__ bool exists(int distance) const {
    return distance >= 0 && distance < head_.length;
  }
  __device__ bool is_forced(int distance) const {
    return head_.length - 1 - distance < kForcedColumns;
  }

  __device__ Sums load(int band) const {
    Sums sums;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int distance = distance_of(band, i);
      sums.diagonals[i] = exists(distance) ? head_.diagonal_sums[distance] : 0.0f;
      sums.columns[i] = exists(distance) ? head_.column_sums[head_.length - 1 - distance] : 0.0f;
    }
    return sums;
  }

  // Sums of `x` over the lanes up to this one, and over all.
  static __device__ double scan(double x, double& all) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double before = __shfl_up_sync(minference::cuda::kAllLanes, x, distance);
      if (lane() >= distance) x += before;
    }
    all = __shfl_sync(minference::cuda::kAllLanes, x, 31);
    return x;
  }

  static __device__ Diagonals diagonals_of(const Sums& sums) {
    const double first = sums.diagonals[0], second = sums.diagonals[1];
    Diagonals diagonals;
    diagonals.through[1] = scan(first + second, diagonals.all);
    diagonals.through[0] = diagonals.through[1] - second;
    return diagonals;
  }

  __device__ Columns columns_of(int band, const Sums& sums, const Diagonals& before,
                                const Diagonals& here) const {
    Columns columns;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      columns.in_band[i] = here.through[i];
      columns.in_band_before[i] = before.all - before.through[i];
      const double even = (columns.in_band[i] + columns.in_band_before[i]) / kBand;
      const float own = base::max(0.0f, static_cast<float>(sums.columns[i] - even));
      columns.own[i] = exists(distance_of(band, i)) ? own : 0.0f;
    }
    const double first = columns.own[0], second = columns.own[1];
    const double through = scan(first + second, columns.all_own);
    columns.own_before[0] = through - (first + second);
    columns.own_before[1] = through - second;
    return columns;
  }

  __device__ float worth_of_band(int band, const Sums& sums, const Columns& here, const Columns& next) const {
    constexpr int kForcedBands = (kForcedOffsets + kBand - 1) / kBand;
    double worth = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const double even = (here.all_own - here.own_before[i] + next.own_before[i]) / kBand;
      // Offsets that do not exist have sums of 0.
      worth += base::max(0.0, sums.diagonals[i] - even);
    }
    worth = minference::cuda::warp_sum(worth);
    return band >= 0 && band < kForcedBands ? FLT_MAX : static_cast<float>(worth);
  }

  __device__ void store(int band, float worth, const Columns& columns) const {
    float own[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int distance = distance_of(band, i);
      own[i] = exists(distance) && !is_forced(distance) ? columns.own[i] : -1.0f;
    }
    *reinterpret_cast<float2*>(head_.own + distance_of(band, 0)) = {own[0], own[1]};
    // Floats of at least 0 are ordered like their bits, and so is -1 below them.
    const int largest =
        __reduce_max_sync(minference::cuda::kAllLanes, __float_as_int(base::max(own[0], own[1])));
    if (lane() > 0) return;
    head_.largest_own[band] = __int_as_float(largest);
    head_.band_worth[band] = worth;
  }

  // All columns of a band are crossed by the same two bands, whose steps are added up before.
  __device__ void add_to_histogram(int band, const Sums& sums, const Columns& columns,
                                   std::int32_t code_before, std::int32_t code_here, double mass) {
    double before = 0, here = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int distance = distance_of(band, i);
      if (!exists(distance)) continue;
      const std::int32_t code =
          is_forced(distance) ? kCodes - 1 : code_of(worth_of_column(columns.own[i], head_.columns_per_tile));
      if (code == 0) continue;
      const ColumnSteps steps = steps_of_column(
          sums.columns[i], code, {code_before, columns.in_band_before[i]}, {code_here, columns.in_band[i]});
      histogram_.add(code, to_fixed(steps.own));
      before += steps.first, here += steps.second;
    }
    const std::int64_t all_before = MassHistogram::warp_sum(to_fixed(before));
    const std::int64_t all_here = MassHistogram::warp_sum(to_fixed(here));
    if (lane() > 0) return;
    histogram_.add(code_before, all_before);
    histogram_.add(code_here, all_here + to_fixed(mass));
  }

  AdaptiveHead head_;
  MassHistogram& histogram_;
};

__device__ inline void weigh_chunk(const AdaptiveHead& head, int chunk, WeighMemory& memory) {
  memory.histogram.clear();
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int first = chunk * kChunkBands + warp * kWarpBands,
            end = base::min(first + kWarpBands, head.num_bands);
  const double mass = first < end ? BandWalk(head, memory.histogram).walk(first, end) : 0.0;
  if (threadIdx.x % 32 == 0) memory.warp_mass[warp] = mass;
  __syncthreads();
  memory.histogram.add_to(head.histogram);
  if (threadIdx.x > 0) return;
  double all = 0;
  for (const double part : memory.warp_mass) all += part;
  head.chunk_mass[chunk] = all;
}

}  // namespace minference::kernels::cuda
