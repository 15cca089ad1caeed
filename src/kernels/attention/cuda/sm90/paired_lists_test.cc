#include "kernels/attention/cuda/sm90/paired_lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <random>
#include <utility>
#include <vector>

namespace minference::kernels::cuda::sm90 {
namespace {

constexpr int kNone = -1;
constexpr int kAnnounceAfter = 8;  // of producer.cuh

// The entries that a half takes, place by place.
struct Walk {
  int num_entries = 0;
  int lower_late = 0;  // steps of one tile
  std::vector<int> places[2];
};

// As blocks.cu writes it.
template <int TilesAStep>
Walk walk_of(const PairedLists<TilesAStep>& lists) {
  Walk walk{lists.num_entries(), lists.lower_late(), {}};
  for (int half = 0; half < 2; ++half) {
    std::vector<int>& places = walk.places[half];
    for (int n = 0; n < lists.begin_blanks(half); ++n) places.push_back(lists.begin_blank_entry(half, n));
    for (int i = ListedBlocks::kNearBlocks - 1; i >= 0; --i)
      if ((lists.near[half] >> i & 1) != 0) places.push_back(lists.near_entry(half, i));
    while (static_cast<int>(places.size()) < lists.near_places(half)) places.push_back(places.back());
    for (int n = 0; n < lists.shared; ++n) places.push_back(lists.shared_entry(n));
    for (int n = 0; n < lists.own[half]; ++n) places.push_back(lists.own_entry(half, n));
    if (lists.blank_steps(half) > 0 && places.size() % TilesAStep != 0) places.push_back(places.back());
    for (int n = 0; n < lists.blank_steps(half); ++n)
      places.insert(places.end(), TilesAStep, lists.blank_entry(half, n));
  }
  return walk;
}

template <int TilesAStep>
std::vector<PairedLists<TilesAStep>> many_lists() {
  std::vector<PairedLists<TilesAStep>> all;
  for (int lower = 0; lower < 4; ++lower)
    for (int upper = 0; upper < 8; ++upper)
      for (int shared : {0, 1, 2, 3, 4, 7, 12})
        for (int own : {0, 1, 2, 3, 4, 5, 8, 13})
          for (int upper_own : {0, 1, 2, 3, 4, 5, 9, 14})
            all.push_back({{{lower, upper}, shared, {own, upper_own}}});
  std::erase_if(all, [](const auto& lists) { return lists.nothing(); });
  return all;
}

int bits(int x) {
  return __builtin_popcount(static_cast<unsigned>(x));
}

template <int TilesAStep>
void expect_every_entry_taken() {
  for (const PairedLists<TilesAStep>& lists : many_lists<TilesAStep>()) {
    const Walk walk = walk_of(lists);
    std::vector<int> taken[2];
    for (int half = 0; half < 2; ++half) {
      ASSERT_EQ(static_cast<int>(walk.places[half].size()), lists.all_places(half));
      taken[half].assign(walk.num_entries, 0);
      for (std::size_t place = 0; place < walk.places[half].size(); ++place) {
        const int entry = walk.places[half][place];
        ASSERT_TRUE(entry >= 0 && entry < walk.num_entries);
        // Twice only within a step.
        if (place % TilesAStep == 0 || walk.places[half][place - 1] != entry) ++taken[half][entry];
      }
      for (int i = 0; i < ListedBlocks::kNearBlocks; ++i) {
        ASSERT_TRUE((lists.near[half] >> i & 1) == 0 || (lists.near_halves(half, i) >> half & 1) == 1);
      }
      // Steps without a mask hold no blank and no near block but the last one.
      const int plain = TilesAStep * lists.plain_steps(half, true);
      ASSERT_LE(plain, lists.near_places(half) + lists.shared + lists.own[half]);
      ASSERT_LE(lists.begin_blanks(half), lists.near[half] < 4 && lists.near[1 - half] < 4 ? 1 : 2);
    }
    int both = 0, single = 0;
    for (int entry = 0; entry < walk.num_entries; ++entry) {
      ASSERT_TRUE(taken[0][entry] <= 1 && taken[1][entry] <= 1 && taken[0][entry] + taken[1][entry] >= 1);
      (taken[0][entry] + taken[1][entry] == 2 ? both : single) += 1;
    }
    const int shared_near = TilesAStep == 2 ? bits(lists.near[0] & lists.near[1]) : 0;
    ASSERT_EQ(both, shared_near + lists.shared);
    const int blanks =
        lists.blank_steps(0) + lists.blank_steps(1) + lists.begin_blanks(0) + lists.begin_blanks(1);
    const int listed_near = bits(lists.near[0]) + bits(lists.near[1]);
    ASSERT_EQ(single, listed_near - 2 * shared_near + lists.own[0] + lists.own[1] + blanks);
    const int blocks = listed_near + 2 * lists.shared + lists.own[0] + lists.own[1];
    const auto even = [](int n) { return n + n % 2; };
    ASSERT_LE(even(lists.all_places(0)) + even(lists.all_places(1)), words_of_paired_lists(blocks));
    ASSERT_LE(lists.num_entries(), words_of_paired_lists(blocks));
  }
}

TEST(PairedLists, EveryEntryIsTakenAsItsHalvesSay) {
  expect_every_entry_taken<2>();
  expect_every_entry_taken<1>();
}

// A relative head's item: runs of tiles, of which the upper half takes all and the lower one may miss the last.
Walk relative_walk(std::mt19937& random) {
  Walk walk;
  walk.lower_late = 1;
  const int tiles = static_cast<int>(random() % 12) + 1, columns = static_cast<int>(random() % 6);
  const int longest_run = 1 + static_cast<int>(random() % 4);
  int run = 0;
  for (int j = 0, breaks = 0; j < tiles; ++j) {
    if (run == 0) {
      run = 1 + static_cast<int>(random() % 64) % longest_run;
      breaks += j > 0;
    }
    --run;
    walk.places[1].push_back(j + breaks);
    walk.places[0].push_back(j + breaks + 1);
    walk.num_entries = j + breaks + 2;
  }
  if (tiles > 1 && random() % 2 == 0) {
    walk.places[0].pop_back();
    walk.num_entries = walk.places[1].back() + 1;
    if (walk.places[0].back() >= walk.num_entries) walk.num_entries = walk.places[0].back() + 1;
  }
  for (int column = 0; column < columns; ++column, ++walk.num_entries)
    for (auto& places : walk.places) places.push_back(walk.num_entries);
  return walk;
}

// A barrier's parity tells one fill of a slot from the next only, and halves take turns: what the kernel relies on
// when items follow one another. Steps of two tiles issue an item's last product with the first scores of the next
// item; steps of one in a turn of its own, the one after the half's last step.
template <int TilesAStep>
class Rings {
 public:
  void take(const std::vector<Walk>& walks) {
    constexpr int kEndTurns = TilesAStep == 1 ? 1 : 0;
    for (const Walk& walk : walks) {
      const int first = static_cast<int>(turn_of_[0].size()), first_turn = num_turns();
      for (auto& turns : turn_of_) turns.resize(first + walk.num_entries, kNone);
      const auto steps_of = [&](int half) {
        return (static_cast<int>(walk.places[half].size()) + TilesAStep - 1) / TilesAStep;
      };
      ASSERT_TRUE(steps_of(0) > 0 && (steps_of(1) - steps_of(0) == 0 || steps_of(1) - steps_of(0) == 1));
      const auto late = [&](int half) { return TilesAStep == 1 && half == 0 ? walk.lower_late : 0; };
      const int turns = std::max(steps_of(0) + late(0), steps_of(1)) + kEndTurns;
      for (int half = 0; half < 2; ++half) {
        steps_[half].resize(first_turn + turns);
        for (std::size_t place = 0; place < walk.places[half].size(); ++place) {
          const int entry = first + walk.places[half][place],
                    turn = first_turn + late(half) + static_cast<int>(place / TilesAStep);
          std::vector<int>& step = steps_[half][turn];
          if (step.empty() || step.back() != entry) step.push_back(entry);
          turn_of_[half][entry] = turn;
          ASSERT_TRUE(TilesAStep == 1 || place >= 4 || walk.places[half][place] <= kAnnounceAfter);
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      product_turn_[half].assign(num_turns(), std::numeric_limits<int>::max());
      for (int turn = num_turns() - 1, next = num_turns(); turn >= 0; --turn) {
        product_turn_[half][turn] = next;
        if (!steps_[half][turn].empty() || TilesAStep == 1) next = turn;
      }
    }
  }

  void check(int key_slots, int value_slots) const {
    for (int turn = 0; turn < num_turns(); ++turn) {
      for (int half = 0; half < 2; ++half) {
        const std::vector<int>& step = steps_[half][turn];
        for (const int entry : step) {
          check_keys(half, turn, entry, key_slots);
          check_values(half, turn, entry, value_slots);
        }
      }
    }
  }

 private:
  int num_turns() const { return static_cast<int>(steps_[0].size()); }

  // The other half's last turn that is over behind the barrier of this one's.
  static int other_turn_over(int half, int turn) { return half == 0 ? turn - 1 : turn; }

  void check_keys(int half, int turn, int entry, int slots) const {
    const int before = entry - slots;
    if (before < 0) return;
    // The fill before has arrived: this half has waited for it, or the other one before its turn was over.
    ASSERT_TRUE(turn_of_[half][before] != kNone || turn_of_[1 - half][before] <= other_turn_over(half, turn));
    // All fills up to this one find their slots given back, whoever else stands still.
    for (int e = 0; e <= before; ++e) {
      ASSERT_LT(turn_of_[half][e], turn);
      ASSERT_LE(turn_of_[1 - half][e], other_turn_over(half, turn));
    }
  }

  void check_values(int half, int turn, int entry, int slots) const {
    const int at = product_turn_[half][turn], before = entry - slots;
    const auto product_turn_of = [&](int which, int e) {
      return turn_of_[which][e] == kNone ? kNone : product_turn_[which][turn_of_[which][e]];
    };
    for (int e = 0; e <= before; ++e) {
      ASSERT_LT(product_turn_of(half, e), at);
      ASSERT_LE(product_turn_of(1 - half, e), other_turn_over(half, at));
    }
  }

  std::vector<int> turn_of_[2];             // of each entry, kNone: not taken
  std::vector<std::vector<int>> steps_[2];  // entries by turn
  std::vector<int> product_turn_[2];        // in which a turn's values are taken
};

template <int TilesAStep>
void expect_sound_rings(std::initializer_list<std::pair<int, int>> key_and_value_slots) {
  const auto lists = many_lists<TilesAStep>();
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<Walk> walks;
    walks.reserve(4);
    for (int i = 0; i < 4; ++i)
      walks.push_back(random() % 4 == 0 ? relative_walk(random) : walk_of(lists[random() % lists.size()]));
    Rings<TilesAStep> rings;
    rings.take(walks);
    for (const auto& [key_slots, value_slots] : key_and_value_slots) rings.check(key_slots, value_slots);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(PairedLists, RingsAreNeitherMisreadNorStuck) {
  expect_sound_rings<2>({{6, 6}, {8, 8}});
  expect_sound_rings<1>({{3, 2}});
}

}  // namespace
}  // namespace minference::kernels::cuda::sm90
