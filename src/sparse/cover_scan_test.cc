#include "sparse/cover_scan.h"

#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <vector>

#include "sparse/cover.h"
#include "sparse/relative_count.h"

namespace minference::sparse {
namespace {

std::vector<CoverWord> words_of(const std::vector<std::int32_t>& offsets, std::int64_t kv_len) {
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(cover_words(kv_len)));
  for (const std::int32_t offset : offsets) bits[offset / 64] |= std::uint64_t{1} << offset % 64;
  std::vector<CoverWord> words;
  for (std::size_t w = 0; w < bits.size(); ++w)
    words.push_back({w == 0 ? -1 : 63 - std::countl_zero(bits[w - 1]), std::countr_zero(bits[w])});
  return words;
}

// Offsets that leave gaps of about `gap`, in runs of about `run`.
std::vector<std::int32_t> random_offsets(std::mt19937& rng, std::int32_t kv_len, int gap, int run) {
  std::vector<std::int32_t> offsets;
  std::int32_t next = static_cast<std::int32_t>(rng() % (gap + 1));
  while (next < kv_len) {
    for (int i = 0; i < run && next < kv_len; ++i) offsets.push_back(next++);
    next += static_cast<std::int32_t>(rng() % (2 * gap + 1));
  }
  return offsets;
}

template <class Body>
void for_random_lists(Body&& body) {
  std::mt19937 rng(7);
  for (const int gap : {1, 30, 64, 65, 100, 127, 128, 300, 5000})
    for (const int run : {1, 2, 63, 64, 65, 200})
      for (const std::int32_t kv_len : {1, 2, 63, 64, 65, 66, 127, 128, 129, 4000, 10001})
        body(random_offsets(rng, kv_len, gap, run), kv_len);
}

TEST(CoverScan, WalksToTheCoversTiles) {
  for_random_lists([](const std::vector<std::int32_t>& offsets, std::int64_t kv_len) {
    const std::vector<CoverWord> words = words_of(offsets, kv_len);
    std::vector<std::int32_t> tiles;
    CoverState state = kNoTile;
    for (std::size_t w = 0; w < words.size(); ++w) {
      state = words[w].next(state);
      if (state != kNoTile) tiles.push_back(-static_cast<std::int32_t>(64 * w + state));
    }
    ASSERT_EQ(tiles, cover_offsets(offsets)) << "kv_len " << kv_len << ", " << offsets.size() << " offsets";
  });
}

// Stretches walked from every state, then put together, as the device does.
TEST(CoverScan, StretchesCompose) {
  constexpr int kStretch = 5;
  for_random_lists([](const std::vector<std::int32_t>& offsets, std::int64_t kv_len) {
    const std::vector<CoverWord> words = words_of(offsets, kv_len);
    CoverState whole = kNoTile, composed = kNoTile;
    for (const CoverWord& word : words) whole = word.next(whole);
    for (std::size_t begin = 0; begin < words.size(); begin += kStretch) {
      CoverState table[kCoverStates];
      for (CoverState entry = 0; entry < kCoverStates; ++entry) {
        table[entry] = entry;
        for (std::size_t w = begin; w < std::min(words.size(), begin + kStretch); ++w)
          table[entry] = words[w].next(table[entry]);
      }
      composed = table[composed];
    }
    ASSERT_EQ(composed, whole);
  });
}

TEST(CoverScan, TheTableCountsTilesAsTheirListDoes) {
  std::mt19937 rng(11);
  for_random_lists([&](const std::vector<std::int32_t>& offsets, std::int64_t kv_len) {
    std::vector<std::int32_t> tiles;
    std::vector<std::uint32_t> entries;
    CoverState state = kNoTile;
    for (const CoverWord& word : words_of(offsets, kv_len)) {
      state = word.next(state);
      entries.push_back(TileTable::entry(static_cast<std::int32_t>(tiles.size()), state));
      if (state != kNoTile) tiles.push_back(-static_cast<std::int32_t>(64 * (entries.size() - 1) + state));
    }
    const TileList list(tiles.data(), std::ssize(tiles));
    const TileTable table(entries.data(), std::ssize(entries), std::ssize(tiles));
    for (int i = 0; i < 200; ++i) {
      const std::int64_t start = static_cast<std::int64_t>(rng() % (kv_len + 400)) - kv_len - 200;
      ASSERT_EQ(table.above(start), list.above(start)) << "kv_len " << kv_len << ", start " << start;
    }
    for (const std::int32_t tile : tiles) ASSERT_EQ(table.above(tile), list.above(tile));
  });
}

}  // namespace
}  // namespace minference::sparse
