#include "mask.h"

#include <gtest/gtest.h>

#include <functional>

namespace minference::ggml {
namespace {

constexpr std::uint16_t kMinusInfinity = 0xfc00, kOne = 0x3c00;

// A mask of rows that attend to the keys for which `attends(row, key)`, in rows of a longer stride.
class Mask {
 public:
  Mask(std::int64_t num_rows, std::int64_t num_keys,
       const std::function<bool(std::int64_t, std::int64_t)>& attends)
      : num_rows_(num_rows), num_keys_(num_keys), data_(static_cast<std::size_t>(num_rows * stride()), kOne) {
    for (std::int64_t row = 0; row < num_rows; ++row) {
      for (std::int64_t key = 0; key < num_keys; ++key) at(row, key) = attends(row, key) ? 0 : kMinusInfinity;
    }
  }

  std::uint16_t& at(std::int64_t row, std::int64_t key) {
    return data_[static_cast<std::size_t>(row * stride() + key)];
  }
  MaskView view() const { return {data_.data(), num_rows_, num_keys_, stride()}; }

 private:
  std::int64_t stride() const { return num_keys_ + 3; }

  std::int64_t num_rows_, num_keys_;
  std::vector<std::uint16_t> data_;
};

std::vector<RowGroup> groups_of(const Mask& mask) {
  std::vector<RowGroup> groups;
  EXPECT_TRUE(read_mask(mask.view(), groups));
  EXPECT_TRUE(looks_like(mask.view(), groups));
  return groups;
}

bool is_refused(const Mask& mask) {
  std::vector<RowGroup> groups;
  return !read_mask(mask.view(), groups);
}

TEST(ReadMask, FindsAChunkOfOneSequence) {
  const auto groups = groups_of({100, 777, [](auto row, auto key) { return key <= 500 + row; }});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].row_begin, 0);
  EXPECT_EQ(groups[0].num_rows, 100);
  EXPECT_EQ(groups[0].keys, (std::vector<KeyRun>{{0, 600}}));
  EXPECT_EQ(groups[0].window, 0);
  EXPECT_EQ(groups[0].num_keys(), 600);
}

TEST(ReadMask, FindsSequencesSideBySide) {
  // One continues at keys 10 to 59; another starts at key 60.
  const auto groups =
      groups_of({100, 256, [](auto row, auto key) {
                   return row < 40 ? key >= 10 && key <= 20 + row : key >= 60 && key <= 60 + row - 40;
                 }});
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].num_rows, 40);
  EXPECT_EQ(groups[0].keys, (std::vector<KeyRun>{{10, 60}}));
  EXPECT_EQ(groups[1].row_begin, 40);
  EXPECT_EQ(groups[1].num_rows, 60);
  EXPECT_EQ(groups[1].keys, (std::vector<KeyRun>{{60, 120}}));
}

TEST(ReadMask, FindsASequenceInPieces) {
  const auto groups =
      groups_of({50, 512, [](auto row, auto key) {
                   return key < 30 || (key >= 100 && key < 200) || (key >= 300 && key <= 300 + row);
                 }});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].keys, (std::vector<KeyRun>{{0, 30}, {100, 200}, {300, 350}}));
  EXPECT_EQ(groups[0].num_keys(), 180);
}

TEST(ReadMask, FindsASlidingWindow) {
  const auto window = [](std::int64_t first, std::int64_t size) {
    return Mask(200, 500, [=](auto row, auto key) { return key <= first + row && key > first + row - size; });
  };
  // Rows that grow to the window, and rows that have it from the start.
  for (const std::int64_t first : {0, 10, 99, 100, 250}) {
    const auto groups = groups_of(window(first, 100));
    ASSERT_EQ(groups.size(), 1u) << first;
    EXPECT_EQ(groups[0].window, 100) << first;
    EXPECT_EQ(groups[0].keys, (std::vector<KeyRun>{{std::max<std::int64_t>(0, first - 99), first + 200}}));
  }
  // One that no row reaches.
  EXPECT_EQ(groups_of(window(0, 200))[0].window, 0);
}

TEST(ReadMask, RefusesWhatIsNotInOrder) {
  // New keys lie before old ones.
  EXPECT_TRUE(is_refused(
      {100, 400, [](auto row, auto key) { return key <= 20 + row || (key >= 200 && key < 300); }}));
  // Not causal.
  EXPECT_TRUE(is_refused({100, 100, [](auto, auto) { return true; }}));
  // Two keys a row.
  EXPECT_TRUE(is_refused({100, 400, [](auto row, auto key) { return key <= 2 * row; }}));
  // A window that widens.
  EXPECT_TRUE(is_refused({100, 400, [](auto row, auto key) { return key >= row / 2 && key <= 100 + row; }}));
}

TEST(ReadMask, RefusesOtherNumbersAndEmptyRows) {
  const auto causal = [](auto row, auto key) { return key <= 50 + row; };
  for (const std::uint16_t number : {kOne, std::uint16_t{0x8000}, std::uint16_t{0x7e00}}) {
    for (const std::int64_t key : {0, 100, 130, 199}) {
      Mask mask(100, 200, causal);
      mask.at(60, key) = number;
      EXPECT_TRUE(is_refused(mask)) << number << " at " << key;
    }
  }
  EXPECT_TRUE(is_refused({100, 200, [](auto row, auto key) { return row != 70 && key <= 50 + row; }}));
}

TEST(ReadMask, KeepsAFewRowsOfTheirOwn) {
  // A token of another sequence before a chunk, as when one slot decodes while another reads its prompt.
  const auto groups = groups_of(
      {101, 300, [](auto row, auto key) { return row == 0 ? key < 9 : key >= 9 && key <= 8 + row; }});
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].num_rows, 1);
  EXPECT_EQ(groups[1].num_rows, 100);
}

TEST(LooksLike, SeesTheNextChunk) {
  const auto chunk = [](std::int64_t first) {
    return Mask(64, 400, [=](auto row, auto key) { return key <= first + row; });
  };
  const auto groups = groups_of(chunk(100));
  EXPECT_FALSE(looks_like(chunk(164).view(), groups));
  EXPECT_FALSE(looks_like(chunk(99).view(), groups));
}

}  // namespace
}  // namespace minference::ggml
