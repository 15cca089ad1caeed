#pragma once

#include <minference/cpp/error.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>

namespace minference {

enum class DType : std::int32_t {
  f32 = MINFERENCE_F32,
  f16 = MINFERENCE_F16,
  bf16 = MINFERENCE_BF16,
  i32 = MINFERENCE_I32,
  i64 = MINFERENCE_I64,
};

using Extents = std::array<std::int64_t, 4>;

// The DType of a C++ element type. f16 and bf16 have none in C++20: name theirs.
template <class Element>
constexpr DType dtype_of() {
  static_assert(std::is_same_v<Element, float> || std::is_same_v<Element, std::int32_t> ||
                    std::is_same_v<Element, std::int64_t>,
                "name the DType of elements other than float, int32_t and int64_t");
  if constexpr (std::is_same_v<Element, float>) return DType::f32;
  if constexpr (std::is_same_v<Element, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<Element, std::int64_t>) return DType::i64;
}

// Four dimensions in host memory; default-constructed: absent, where an argument allows that. `Data` is void
// for tensors that the library writes and const void for those it reads.
template <class Data>
class BasicTensorView {
 public:
  BasicTensorView() = default;

  // Contiguous.
  BasicTensorView(Data* data, DType dtype, Extents shape)
      : BasicTensorView(data, dtype, shape,
                        {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1}) {}

  // `stride` in elements, stride[3] == 1.
  BasicTensorView(Data* data, DType dtype, Extents shape, Extents stride) {
    tensor_.data = const_cast<void*>(static_cast<const void*>(data));
    for (std::size_t i = 0; i < shape.size(); ++i) {
      tensor_.shape[i] = shape[i];
      tensor_.stride[i] = stride[i];
    }
    tensor_.dtype = static_cast<std::int32_t>(dtype);
  }

  // Contiguous, over a vector, array or span of float, int32_t or int64_t: TensorView(values, {1, 8, 4096,
  // 128}).
  template <std::ranges::contiguous_range Range>
  requires std::ranges::sized_range<Range> && std::ranges::borrowed_range<Range> &&
      std::is_convertible_v<decltype(std::ranges::data(std::declval<Range&>())), Data*>
      BasicTensorView(Range&& values, Extents shape)
      : BasicTensorView(std::ranges::data(values), dtype_of<std::ranges::range_value_t<Range>>(), shape) {
    const std::int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    if (std::cmp_not_equal(std::ranges::size(values), count))
      throw Error(Status::invalid_argument, "values.size() must be the shape's " + std::to_string(count) +
                                                ", got " + std::to_string(std::ranges::size(values)));
  }

  // What may be written may be read. A template, lest it be the copy constructor of MutableTensorView.
  template <std::same_as<void> Other>
  BasicTensorView(const BasicTensorView<Other>& other) requires std::is_const_v<Data> : tensor_(other.c()) {}

  // [B, length, H, D] memory, as many engines keep it, seen as [B, H, length, D].
  static BasicTensorView length_first(Data* data, DType dtype, Extents shape) {
    const auto [batch, heads, length, dim] = shape;
    return {data, dtype, shape, {length * heads * dim, dim, heads * dim, 1}};
  }

  const minference_tensor& c() const noexcept { return tensor_; }

 private:
  minference_tensor tensor_{};
};

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

// One sequence inside [B, H, length, D] tensors; fields batch, q_begin, q_len, kv_begin, kv_len.
using Sequence = minference_sequence;

}  // namespace minference
