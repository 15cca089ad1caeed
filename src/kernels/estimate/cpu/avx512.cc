#include "kernels/estimate/cpu/avx512_words.h"
#include "kernels/estimate/cpu/main_loop.h"

namespace minference::kernels::estimate {
namespace {

struct Avx512 : Avx512Words {
  using Key = float;
  static constexpr base::DType kDirect = base::DType::f32;
  static constexpr int kDimsPerStep = 1;

  static F32x16 key_at(const Key* key, std::int64_t step) { return broadcast(key[step]); }
  static F32x16 dot(F32x16 query, F32x16 key, F32x16 sum) { return multiply_add(query, key, sum); }
};

}  // namespace

const Steps& avx512_steps() {
  static constexpr Steps steps = MainLoop<Avx512>::steps(false);
  return steps;
}

}  // namespace minference::kernels::estimate
