#include "kernels/gather/gather.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/arithmetic.h"
#include "capi/context.h"
#include "capi/status.h"
#include "capi/tensors.h"

namespace minference::capi {
namespace {

std::span<const std::int32_t> checked_offsets(const std::int32_t* offsets, std::int64_t count,
                                              const char* name) {
  if (count > 0) not_null(offsets, name);
  const std::span list(offsets, static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < list.size(); ++i)
    base::require(list[i] >= 0, std::string(name) + "[" + std::to_string(i) + "]", "must be >= 0", list[i]);
  return list;
}

std::int64_t largest(std::span<const std::int32_t> offsets) {
  return offsets.empty() ? 0 : *std::max_element(offsets.begin(), offsets.end());
}

void run_gather(const ContextLease& context, const minference_gather_args& args) {
  const minference_tensor &pages = args.pages, &out = args.out;
  checked_float_dtype(pages.dtype, "pages.dtype");
  check_tensor(pages, "pages", {.shape = {kAnySize, kAnySize, 1, kAnySize}});
  check_dtype(out, "out", pages.dtype);
  check_tensor(out, "out", {.shape = {1, pages.shape[1], kAnySize, kAnySize}, .written = true});
  check_length(out.shape[2], "out.shape[2]");
  // A page is one entry of the pool's int32 tables; so are its tokens.
  base::require(args.page_size >= 1 && args.page_size <= INT32_MAX, "page_size",
                "must be from 1 to 2147483647", args.page_size);
  const auto token_offsets = checked_offsets(args.token_offsets, args.page_size, "token_offsets");
  const auto dim_offsets = checked_offsets(args.dim_offsets, out.shape[3], "dim_offsets");
  base::require(
      largest(token_offsets) + largest(dim_offsets) < pages.shape[3], "pages.shape[3]",
      "must be above every offset, " + std::to_string(largest(token_offsets) + largest(dim_offsets)),
      pages.shape[3]);
  const std::int64_t used = base::divide_up(out.shape[2], args.page_size);
  base::require(args.table_size >= used, "table_size", "must be >= " + std::to_string(used), args.table_size);
  if (used > 0) not_null(args.table, "table");
  for (std::int64_t i = 0; i < used; ++i)
    base::require(args.table[i] >= 0 && args.table[i] < pages.shape[0], "table[" + std::to_string(i) + "]",
                  "must be a page of the pool, below " + std::to_string(pages.shape[0]), args.table[i]);
  kernels::gather_pages({.first = pages.data,
                         .page_stride = pages.stride[0],
                         .head_stride = pages.stride[1],
                         .token_offsets = token_offsets,
                         .dim_offsets = dim_offsets,
                         .table = args.table},
                        output_heads(out, 0, 0, out.shape[2]), context.executor());
}

}  // namespace
}  // namespace minference::capi

using namespace minference;

extern "C" minference_status minference_gather(minference_context* context,
                                               const minference_gather_args* args) {
  return capi::guarded([&] {
    const capi::ContextLease lease(context);
    capi::run_gather(lease, capi::checked_struct(args, "args"));
  });
}
