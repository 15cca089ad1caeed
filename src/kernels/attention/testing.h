#pragma once

// Attention calls with guarded memory around them, for the tests of every kernel in the table.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"

namespace minference::kernels::testing {

using base::DType;
using sparse::IndexForm;

inline constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};
inline constexpr IndexForm kForms[] = {IndexForm::all, IndexForm::relative, IndexForm::window,
                                       IndexForm::blocks};

struct Case {
  DType dtype = DType::f32;
  std::int64_t head_dim = 64;
  std::int64_t group = 1;
  IndexForm form = IndexForm::all;
  std::int64_t q_len = 131;
  std::int64_t kv_len = 131;
  bool causal = true;
  std::int64_t last_dense_rows = 0;
  float key_scale = 1;
  bool in_place =
      false;  // heads contiguous, as a KV cache lies; otherwise tokens interleave heads at odd strides
};

inline std::string name_of(IndexForm form) {
  switch (form) {
    case IndexForm::all:
      return "all";
    case IndexForm::relative:
      return "relative";
    case IndexForm::window:
      return "window";
    default:
      return "blocks";
  }
}

inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << base::name_of(c.dtype) << " head_dim " << c.head_dim << " group " << c.group << ' '
             << name_of(c.form) << " q_len " << c.q_len << " kv_len " << c.kv_len
             << (c.causal ? " causal" : " full") << " last_dense_rows " << c.last_dense_rows << " key_scale "
             << c.key_scale << (c.in_place ? " in place" : " strided");
}

inline constexpr std::int64_t kNumKvHeads = 2;

// Memory of one tensor with guard elements between its rows.
struct Memory {
  std::vector<char> bytes;
  std::int64_t head_stride, row_stride;

  Memory(DType dtype, std::int64_t heads, std::int64_t rows, std::int64_t dim, bool in_place) {
    head_stride = in_place ? rows * dim : dim + 1;
    row_stride = in_place ? dim : heads * (dim + 1) + 2;
    // 0xff everywhere is a NaN in every type.
    bytes.assign(static_cast<std::size_t>(heads * head_stride + rows * row_stride) * base::size_of(dtype),
                 '\xff');
  }
};

inline base::InputHeads view(const Memory& m, DType dtype, std::int64_t heads, std::int64_t rows,
                             std::int64_t dim) {
  return {m.bytes.data(), dtype, heads, rows, dim, m.head_stride, m.row_stride};
}

// A descending list of disjoint tiles around the diagonal, some of them to its right, and columns anywhere.
inline void fill_relative(std::mt19937& random, const Case& c, sparse::HeadIndex& head) {
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  std::int64_t start = c.causal ? below(3) * 20 : c.q_len / 2;
  while (start > -c.kv_len) {
    head.tiles.push_back(static_cast<std::int32_t>(start));
    start -= 64 + below(2) * below(90);
  }
  for (std::int64_t k = 0; k < c.kv_len; ++k) {
    if (below(3) == 0) head.columns.push_back(static_cast<std::int32_t>(k));
  }
  // Some heads leave rows without any key.
  if (below(3) == 0) {
    head.tiles.resize(std::min<std::size_t>(head.tiles.size(), 1));
    head.tiles[0] = -70;
    head.columns.resize(std::min<std::size_t>(head.columns.size(), 1));
  }
}

inline void fill_blocks(std::mt19937& random, const Case& c, sparse::HeadIndex& head) {
  head.row_offsets.push_back(0);
  for (std::int64_t row = 0; row < c.q_len; row += sparse::kRowBlock) {
    for (std::int64_t block = 0; block * sparse::kKeyTile < c.kv_len; ++block) {
      if (random() % 2 == 0) head.key_blocks.push_back(static_cast<std::int32_t>(block));
    }
    head.row_offsets.push_back(static_cast<std::int64_t>(head.key_blocks.size()));
  }
}

inline sparse::SparseIndex make_index(std::mt19937& random, const Case& c) {
  sparse::SparseIndex index{.q_len = c.q_len, .kv_len = c.kv_len, .causal = c.causal, .heads = {}};
  for (std::int64_t h = 0; h < kNumKvHeads * c.group; ++h) {
    sparse::HeadIndex head;
    head.form = c.form;
    head.last_dense_rows = c.last_dense_rows;
    if (c.form == IndexForm::relative) fill_relative(random, c, head);
    if (c.form == IndexForm::blocks) fill_blocks(random, c, head);
    head.sink = static_cast<std::int64_t>(random() % 10);
    head.local = static_cast<std::int64_t>(random() % 100);
    index.heads.push_back(head);
  }
  return index;
}

// The index contract, pair by pair, from the index alone.
inline bool attends(const sparse::SparseIndex& index, std::int64_t head_index, std::int64_t row,
                    std::int64_t key) {
  const sparse::HeadIndex& head = index.heads[static_cast<std::size_t>(head_index)];
  const std::int64_t position = index.kv_len - index.q_len + row;
  const std::int64_t block = row / 64;
  const std::int64_t block_position = index.kv_len - index.q_len + 64 * block;
  if (index.causal && key > position) return false;
  if (head.form == IndexForm::all || row >= index.q_len - head.last_dense_rows) return true;
  if (head.form == IndexForm::window) return key < head.sink || std::abs(position - key) < head.local;
  if (head.form == IndexForm::blocks) {
    const auto first = head.key_blocks.begin() + head.row_offsets[static_cast<std::size_t>(block)];
    const auto last = head.key_blocks.begin() + head.row_offsets[static_cast<std::size_t>(block) + 1];
    return std::find(first, last, key / 64) != last;
  }
  for (const std::int32_t start : head.tiles) {
    if (key >= block_position + start && key < block_position + start + 64) return true;
  }
  return std::find(head.columns.begin(), head.columns.end(), key) != head.columns.end();
}

struct Problem {
  Case shape;
  sparse::SparseIndex index;
  Memory query, key, value, out;
  std::vector<float> lse;
  AttentionCall call;

  explicit Problem(const Case& c, std::uint32_t seed = 1)
      : shape(c),
        query(c.dtype, kNumKvHeads * c.group, c.q_len, c.head_dim, c.in_place),
        key(c.dtype, kNumKvHeads, c.kv_len, c.head_dim, c.in_place),
        value(c.dtype, kNumKvHeads, c.kv_len, c.head_dim, c.in_place),
        out(c.dtype, kNumKvHeads * c.group, c.q_len, c.head_dim, false) {
    std::mt19937 random(seed);
    index = make_index(random, c);
    std::normal_distribution<float> normal;
    const auto fill = [&](Memory& m, std::int64_t heads, std::int64_t rows, float scale) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t d = 0; d < c.head_dim; ++d) {
            base::store_float(m.bytes.data(), c.dtype, h * m.head_stride + r * m.row_stride + d,
                              scale * normal(random));
          }
        }
      }
    };
    const std::int64_t heads = kNumKvHeads * c.group;
    fill(query, heads, c.q_len, 1);
    fill(key, kNumKvHeads, c.kv_len, c.key_scale);
    fill(value, kNumKvHeads, c.kv_len, 1);
    lse.assign(static_cast<std::size_t>(heads * c.q_len * 2), std::numeric_limits<float>::quiet_NaN());
    call.query = view(query, c.dtype, heads, c.q_len, c.head_dim);
    call.key = view(key, c.dtype, kNumKvHeads, c.kv_len, c.head_dim);
    call.value = view(value, c.dtype, kNumKvHeads, c.kv_len, c.head_dim);
    call.out = {out.bytes.data(), c.dtype, heads, c.q_len, c.head_dim, out.head_stride, out.row_stride};
    call.lse = {lse.data(), 2 * c.q_len, 2};
    call.softmax_scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    call.index = &index;
  }
  Problem(const Problem&) = delete;

  void reset_outputs() {
    std::fill(out.bytes.begin(), out.bytes.end(), '\xff');
    std::fill(lse.begin(), lse.end(), std::numeric_limits<float>::quiet_NaN());
  }

  std::int64_t heads() const { return call.query.heads; }
  double output(std::int64_t head, std::int64_t row, std::int64_t d) const {
    return base::load_float(out.bytes.data(), shape.dtype, head * out.head_stride + row * out.row_stride + d);
  }
};

// Rows are all written, the elements between them are not.
inline void check_guards(const Problem& p) {
  std::vector<char> covered(p.out.bytes.size(), 0);
  const auto size = static_cast<std::int64_t>(base::size_of(p.shape.dtype));
  for (std::int64_t head = 0; head < p.heads(); ++head) {
    for (std::int64_t row = 0; row < p.shape.q_len; ++row) {
      const std::int64_t begin = (head * p.out.head_stride + row * p.out.row_stride) * size;
      std::fill_n(covered.begin() + begin, p.shape.head_dim * size, 1);
      for (std::int64_t d = 0; d < p.shape.head_dim; ++d) {
        ASSERT_FALSE(std::isnan(p.output(head, row, d)))
            << "head " << head << " row " << row << " column " << d;
      }
      ASSERT_FALSE(std::isnan(p.call.lse.at(head, row))) << "lse of head " << head << " row " << row;
    }
  }
  for (std::size_t i = 0; i < covered.size(); ++i) {
    if (!covered[i]) ASSERT_EQ(p.out.bytes[i], '\xff') << "guard byte " << i << " of out";
  }
  for (std::size_t i = 1; i < p.lse.size(); i += 2)
    ASSERT_TRUE(std::isnan(p.lse[i])) << "guard " << i << " of lse";
}

inline std::vector<const AttentionKernel*> kernels_for(DType dtype, std::int64_t head_dim) {
  std::vector<const AttentionKernel*> kernels;
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (kernel.required <= base::choose_isa("") && kernel.supports(dtype, head_dim))
      kernels.push_back(&kernel);
  }
  return kernels;
}

}  // namespace minference::kernels::testing
