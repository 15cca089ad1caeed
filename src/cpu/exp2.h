#pragma once

namespace minference::cpu {

// 2^f on [0, 1) as 1 + f (c[0] + c[1] f + ...): the polynomials of least maximal relative error with value 1
// at f = 0, so that a row that attends to one key is exact. Every vector type evaluates them the same way:
// 2^x = 2^floor(x) 2^(x - floor(x)).
template <int kDegree>
struct Exp2Polynomial;

// Relative error 8.6e-5, far below the rounding of a probability to bf16 (2^-9).
template <>
struct Exp2Polynomial<3> {
  static constexpr float kCoefficients[] = {0.695116758f, 0.227644995f, 0.0770670399f};
};

// Relative error 1.6e-7, including its evaluation in f32.
template <>
struct Exp2Polynomial<5> {
  static constexpr float kCoefficients[] = {0.693151295f, 0.240164444f, 0.0557999127f, 0.00901703071f,
                                            0.00186713005f};
};

}  // namespace minference::cpu
