#include "cpu/portable.h"

#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

struct Portable : cpu::portable::Simd {
  using Key = float;
  static constexpr base::DType kDirect = base::DType::f32;
  static constexpr bool kAhead = false;
  static constexpr std::int64_t kBlockKeys = 24;
  static constexpr int kTileKeys = 2, kTileVectors = 1, kDimsPerStep = 1;

  static float sum(const F32x16& x) {
    const F32x4 quarter = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
  }
  static F32x16 shift_in(const F32x16& low, const F32x16& high) {
    F32x16 shifted;
    for (int i = 3; i >= 0; --i)
      shifted.part[i] =
          __builtin_shufflevector(i > 0 ? high.part[i - 1] : low.part[3], high.part[i], 3, 4, 5, 6);
    return shifted;
  }

  static F32x16 key_at(const Key* key, std::int64_t step) { return broadcast(key[step]); }
  static F32x16 dot(const F32x16& query, const F32x16& key, const F32x16& sum) {
    return multiply_add(query, key, sum);
  }
};

}  // namespace

const Steps& portable_steps() {
  static constexpr Steps steps = MainLoop<Portable>::steps(false);
  return steps;
}

}  // namespace minference::kernels::estimate
