#include "kernels/gather/gather.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "base/arithmetic.h"

namespace minference::kernels {
namespace {

// How many dims lie side by side wherever a row begins: they move together.
std::size_t run_of(std::span<const std::int32_t> offsets) {
  const auto follows = [&](std::size_t d) { return offsets[d] == offsets[d - 1] + 1; };
  std::size_t run = 1;
  while (run < offsets.size() && follows(run)) ++run;
  const auto holds = [&](std::size_t begin) {
    for (std::size_t d = begin + 1; d < begin + run; ++d)
      if (!follows(d)) return false;
    return true;
  };
  if (offsets.size() % run != 0) return 1;
  for (std::size_t begin = run; begin < offsets.size(); begin += run)
    if (!holds(begin)) return 1;
  return run;
}

// The rows of one page and head. `run_bytes` is a number, or a constant for those that compilers copy in one instruction.
template <class Size>
void copy_rows(const char* page, std::span<const std::int32_t> token_offsets,
               std::span<const std::int64_t> run_offsets, Size run_bytes, std::int64_t element_bytes,
               char* out, std::int64_t row_bytes) {
  for (const std::int32_t token_offset : token_offsets) {
    const char* const from = page + token_offset * element_bytes;
    char* to = out;
    for (const std::int64_t offset : run_offsets) {
      std::memcpy(to, from + offset, run_bytes);
      to += run_bytes;
    }
    out += row_bytes;
  }
}

template <std::size_t kBytes>
using Constant = std::integral_constant<std::size_t, kBytes>;

}  // namespace

void gather_pages(const Pages& pages, const base::OutputHeads& out, base::Executor& executor) {
  if (out.rows == 0 || out.dim == 0) return;
  const auto element_bytes = static_cast<std::int64_t>(base::size_of(out.dtype));
  const std::size_t run = run_of(pages.dim_offsets), run_bytes = run * base::size_of(out.dtype);
  std::vector<std::int64_t> run_offsets;
  for (std::size_t d = 0; d < pages.dim_offsets.size(); d += run)
    run_offsets.push_back(pages.dim_offsets[d] * element_bytes);

  const auto page_size = static_cast<std::int64_t>(pages.token_offsets.size());
  executor.parallel_for(out.heads * base::divide_up(out.rows, page_size), [&](std::int64_t task, int) {
    const std::int64_t head = task % out.heads, i = task / out.heads, row = i * page_size;
    const char* page = static_cast<const char*>(pages.first) +
                       (pages.table[i] * pages.page_stride + head * pages.head_stride) * element_bytes;
    char* to = static_cast<char*>(out.data) + (head * out.head_stride + row * out.row_stride) * element_bytes;
    const auto tokens =
        pages.token_offsets.first(static_cast<std::size_t>(std::min(page_size, out.rows - row)));
    const auto copy = [&](auto bytes) {
      copy_rows(page, tokens, run_offsets, bytes, element_bytes, to, out.row_stride * element_bytes);
    };
    if (run_bytes == 2)
      copy(Constant<2>{});
    else if (run_bytes == 4)
      copy(Constant<4>{});
    else
      copy(run_bytes);
  });
}

}  // namespace minference::kernels
