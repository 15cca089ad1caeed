#include "sparse/sparse_index.h"

#include <algorithm>

#include "sparse/slice_place.h"

namespace minference::sparse {
namespace {

void append_tile(std::int64_t begin, std::int64_t end, const SlicePlace& place, RowSliceKeys& out) {
  const bool masked = !out.rule.allows_all(place.first, place.last, begin, end - 1);
  out.tiles.push_back({begin, static_cast<std::int32_t>(end - begin), masked});
}

// Tiles over a range of keys, from the right.
void append_range(KeyRange keys, const SlicePlace& place, RowSliceKeys& out) {
  for (std::int64_t end = keys.end; end > keys.begin; end -= kKeyTile) {
    append_tile(std::max(keys.begin, end - kKeyTile), end, place, out);
  }
}

void append_relative(const HeadIndex& head, const SlicePlace& place, RowSliceKeys& out) {
  for (const std::int64_t start : head.tiles) {
    const std::int64_t end = std::min(place.origin + start + kKeyTile, place.key_end);
    if (end <= 0) break;
    const std::int64_t begin = std::max<std::int64_t>(place.origin + start, 0);
    if (begin < end) append_tile(begin, end, place, out);
  }
  auto tile = out.tiles.crbegin();
  for (const std::int32_t column : head.columns) {
    if (column >= place.key_end) break;
    while (tile != out.tiles.crend() && tile->begin + tile->count <= column) ++tile;
    if (tile == out.tiles.crend() || column < tile->begin) out.columns.push_back(column);
  }
  out.columns_masked = out.rule.causal && !out.columns.empty() && out.columns.back() > place.first;
}

void append_window(const HeadIndex& head, const SlicePlace& place, RowSliceKeys& out) {
  const auto [window, sink] = window_ranges(head, place);
  append_range(window, place, out);
  append_range(sink, place, out);
}

void append_blocks(const HeadIndex& head, std::int64_t row_block, const SlicePlace& place,
                   RowSliceKeys& out) {
  for (std::int64_t i = head.row_offsets[row_block + 1]; i-- > head.row_offsets[row_block];) {
    const std::int64_t begin = head.key_blocks[i] * kKeyTile;
    const std::int64_t end = std::min(begin + kKeyTile, place.key_end);
    if (begin < end) append_tile(begin, end, place, out);
  }
}

}  // namespace

std::int64_t HeadIndex::memory_bytes() const {
  return static_cast<std::int64_t>(
      tiles.capacity() * sizeof tiles[0] + columns.capacity() * sizeof columns[0] +
      row_offsets.capacity() * sizeof row_offsets[0] + key_blocks.capacity() * sizeof key_blocks[0]);
}

std::vector<RowSlice> row_slices(std::int64_t q_len, std::int64_t last_dense_rows) {
  const std::int64_t dense_begin = first_dense_row(q_len, last_dense_rows);
  std::vector<RowSlice> slices;
  slices.reserve(static_cast<std::size_t>(q_len / kRowBlock + 2));
  for (std::int64_t begin = 0; begin < q_len;) {
    const std::int64_t block = begin / kRowBlock;
    const bool dense = begin >= dense_begin;
    const std::int64_t end = std::min((block + 1) * kRowBlock, dense ? q_len : dense_begin);
    slices.push_back({block, begin, end, dense});
    begin = end;
  }
  return slices;
}

void keys_of_slice(const SparseIndex& index, std::int64_t head_index, const RowSlice& slice,
                   RowSliceKeys& out) {
  const HeadIndex& head = index.heads[head_index];
  const IndexForm form = slice.dense ? IndexForm::all : head.form;
  const SlicePlace place = place_of(index, slice);
  out.rule = {.causal = index.causal};
  if (form == IndexForm::window) out.rule = {.causal = index.causal, .local = head.local, .sink = head.sink};
  out.tiles.clear();
  out.columns.clear();
  out.columns_masked = false;
  switch (form) {
    case IndexForm::all:
      return append_range({0, place.key_end}, place, out);
    case IndexForm::relative:
      return append_relative(head, place, out);
    case IndexForm::window:
      return append_window(head, place, out);
    case IndexForm::blocks:
      return append_blocks(head, slice.block, place, out);
  }
}

void reserve_keys(const SparseIndex& index, RowSliceKeys& out) {
  // Two runs of disjoint tiles, each with one clipped tile at most.
  out.tiles.reserve(static_cast<std::size_t>(index.kv_len / kKeyTile + 2));
  std::size_t columns = 0;
  for (const HeadIndex& head : index.heads) columns = std::max(columns, head.columns.size());
  out.columns.reserve(columns);
}

}  // namespace minference::sparse
