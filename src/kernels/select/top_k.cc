#include "kernels/select/top_k.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "base/ordered.h"

namespace minference::kernels {
namespace {

std::uint32_t key_of(float x) {
  return base::ordered(std::bit_cast<std::uint32_t>(x));
}

// The `count`-th largest key and how many keys of its value are among the `count` largest.
struct Cut {
  std::uint32_t key;
  std::int64_t ties;
};

// Radix selection: each pass fixes the next digit of the cut from a histogram of the keys that agree so far.
Cut find_cut(std::span<const float> values, std::int64_t count) {
  constexpr int kDigits[] = {11, 11, 10};
  std::uint32_t prefix = 0;
  int shift = 32;
  for (const int digit : kDigits) {
    const std::uint32_t fixed = shift == 32 ? 0 : ~std::uint32_t{0} << shift;
    shift -= digit;
    const std::uint32_t mask = (1u << digit) - 1;
    std::array<std::int64_t, 1 << 11> histogram{};
    for (const float x : values) {
      const std::uint32_t key = key_of(x);
      if (((key ^ prefix) & fixed) == 0) ++histogram[(key >> shift) & mask];
    }
    std::uint32_t bin = mask;
    while (histogram[bin] < count) count -= histogram[bin--];
    prefix |= bin << shift;
  }
  return {prefix, count};
}

}  // namespace

std::vector<std::int32_t> top_k(std::span<const float> values, std::int64_t count, std::int64_t forced) {
  count = std::min(count, static_cast<std::int64_t>(values.size()));
  forced = std::min(forced, count);
  std::vector<std::int32_t> members(static_cast<std::size_t>(count));
  std::iota(members.begin(), members.begin() + forced, 0);
  if (count == forced) return members;

  Cut cut = find_cut(values.subspan(static_cast<std::size_t>(forced)), count - forced);
  auto next = members.begin() + forced;
  for (std::int64_t i = forced; next != members.end(); ++i) {
    const std::uint32_t key = key_of(values[static_cast<std::size_t>(i)]);
    if (key > cut.key || (key == cut.key && cut.ties-- > 0)) *next++ = static_cast<std::int32_t>(i);
  }
  return members;
}

}  // namespace minference::kernels
