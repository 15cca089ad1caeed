#include "kernels/attention/cuda/sm90/items.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/cuda/visible_keys.h"

namespace minference::kernels::cuda::sm90 {
namespace {

// A plan of one head on the host, as lay_out() and prepare.cu make it.
struct HostPlan {
  Plan plan = {};
  sparse::DeviceHead head;
  std::vector<std::int32_t> tiles, columns;
  std::vector<Entry> entries;
  std::vector<std::int32_t> order;

  HostPlan(int q_len, int kv_len, bool causal, int step_tiles) {
    plan.schedule = {
        .num_kv_heads = 1, .group = 1, .items_per_head = base::divide_up(q_len, kItemRows), .turns = 1};
    plan.q_len = q_len;
    plan.kv_len = kv_len;
    plan.causal = causal ? 1 : 0;
    plan.tiles_a_step = step_tiles;
  }

  void list(const sparse::DeviceHead& the_head, std::vector<std::int32_t> the_tiles,
            std::vector<std::int32_t> the_columns) {
    head = the_head;
    tiles = std::move(the_tiles);
    columns = std::move(the_columns);
    plan.entry_capacity =
        entry_capacity(plan.kv_len, plan.causal != 0, static_cast<std::int32_t>(tiles.size()));
    entries.assign(2 * plan.entry_capacity, Entry{});
    order.assign(4 * plan.entry_capacity + kOrderAhead, 0);
    for (std::int32_t e = 0; e < plan.entry_capacity; ++e) {
      entries[plan.entry_capacity + e] = dense_entry(plan, e);
      for (int half = 0; half < 2; ++half)
        order[(2 + half) * plan.entry_capacity + e] = dense_order(plan, half, e);
    }
    if (head.form == sparse::IndexForm::relative) list_relative();
    if (head.form == sparse::IndexForm::window) {
      const WindowTiles window = WindowTiles::of(head, plan);
      for (std::int32_t e = 0; e < std::min(window.count(), plan.entry_capacity); ++e)
        entries[e] = window.entry(plan, e);
    }
  }

  Item item(int pair) const {
    const int position = plan.kv_len - plan.q_len + pair * kItemRows;
    Item item;
    if (head.form == sparse::IndexForm::relative) {
      const RelativeLists lists = {
          tiles.data(), columns.data(), entries.data(), {order.data(), order.data() + plan.entry_capacity}};
      item = relative_item(lists, head, 0, plan, position);
    } else if (head.form == sparse::IndexForm::window) {
      item = window_item(head, 0, plan, position);
    } else {
      item = dense_item(plan, position);
    }
    item.first_row = pair * kItemRows;
    return item;
  }

 private:
  // As list_relative() of prepare.cu.
  void list_relative() {
    const int count = static_cast<int>(tiles.size());
    for (int j = 0, breaks = 0; j < count; ++j) {
      const bool begins_run = j > 0 && tiles[j - 1] != tiles[j] + kTileKeys;
      const bool ends_run = j + 1 == count || tiles[j + 1] != tiles[j] - kTileKeys;
      breaks += begins_run;
      const int upper = j + breaks;
      order[j] = upper + 1;
      order[plan.entry_capacity + j] = upper;
      if (begins_run || j == 0) entries[upper] = Entry::relative(tiles[j] + kHalfRows, 2);
      entries[upper + 1] = Entry::relative(tiles[j], ends_run ? 1 : 3);
    }
  }
};

class Checker {
 public:
  explicit Checker(const HostPlan& host) : host_(host), plan_(host.plan) {}

  void check() {
    for (int pair = 0; pair < plan_.schedule.items_per_head; ++pair) {
      item_ = host_.item(pair);
      check_entries();
      for (int half = 0; half < 2; ++half) check_half(half);
      if (testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  int steps(int half) const {
    return base::divide_up(item_.tiles[half] + item_.column_tiles(), plan_.tiles_a_step);
  }
  int entry_of(int half, int place) const { return host_.order[item_.order_at[half] + place]; }
  int start_of(int entry) const {
    return host_.entries[item_.entries_at + entry].start(plan_.kv_len - plan_.q_len + item_.first_row);
  }

  // A half takes the entries that say so, and no other: the ring's slots are given back by them alone.
  void check_entries() const {
    ASSERT_GE(steps(0), 1);
    ASSERT_TRUE(steps(1) - steps(0) == 0 || steps(1) - steps(0) == 1) << steps(0) << " " << steps(1);
    for (int half = 0; half < 2; ++half) {
      ASSERT_TRUE(plan_.tiles_a_step == 1 || item_.order_at[half] % 2 == 0);
      std::vector<int> taken(item_.num_entries);
      for (int place = 0; place < item_.tiles[half]; ++place) {
        const int entry = entry_of(half, place);
        ASSERT_TRUE(entry >= 0 && entry < item_.num_entries);
        ++taken[entry];
        if (place < plan_.tiles_a_step) {
          ASSERT_EQ(item_.first[half][place], entry);
        }
      }
      for (int entry = 0; entry < item_.num_entries; ++entry) {
        const int halves = host_.entries[item_.entries_at + entry].halves();
        ASSERT_EQ(taken[entry], halves >> half & 1) << "entry " << entry << " of " << item_.num_entries;
      }
    }
  }

  void check_half(int half) const {
    const WindowRule window = {item_.local, item_.sink};
    const int first_row = item_.first_row + half * kHalfRows;
    for (int row = first_row; row < std::min(first_row + kHalfRows, plan_.q_len); ++row) {
      const int position = plan_.kv_len - plan_.q_len + row;
      const int limit = key_limit(plan_.causal != 0, position, plan_.kv_len);
      const VisibleKeys visible = VisibleKeys::of(position, window, limit, 0);
      std::vector<int> computed(plan_.kv_len);
      for (int place = 0; place < item_.tiles[half]; ++place) {
        const int start = start_of(entry_of(half, place)), step = place / plan_.tiles_a_step;
        const bool plain = step >= 1 && step < item_.plain_steps[half];
        for (int key = start; key < start + kTileKeys; ++key) {
          if (visible.holds(key)) ++computed[key];
          ASSERT_TRUE(!plain || visible.holds(key)) << "row " << row << " place " << place << " key " << key;
        }
      }
      ASSERT_LE(item_.plain_steps[half] * plan_.tiles_a_step, item_.tiles[half]);
      for (int key = 0; key < plan_.kv_len; ++key)
        ASSERT_EQ(computed[key], visible.holds(key) && listed(row, key) ? 1 : 0)
            << "row " << row << " key " << key;
    }
  }

  bool listed(int row, int key) const {
    if (host_.head.form != sparse::IndexForm::relative) return true;
    const int behind = key - (plan_.kv_len - plan_.q_len + row / kHalfRows * kHalfRows);
    return std::any_of(host_.tiles.begin(), host_.tiles.end(),
                       [&](int start) { return behind >= start && behind < start + kTileKeys; });
  }

  const HostPlan& host_;
  const Plan& plan_;
  Item item_;
};

TEST(Items, ComputeEveryPairOfTheIndexOnce) {
  std::mt19937 random(1);
  const auto one_of = [&](std::vector<int> choices) { return choices[random() % choices.size()]; };
  for (int round = 0; round < 1500; ++round) {
    const int kv_len = one_of({1, 2, 63, 64, 65, 127, 128, 129, 200, 320, 511, 700});
    const int q_len = one_of({kv_len, kv_len, 1, std::min(kv_len, 100), kv_len - kv_len / 3});
    const bool causal = random() % 2 == 0;
    HostPlan host(q_len, kv_len, causal, one_of({1, 2}));
    const int form = static_cast<int>(random() % (causal ? 3 : 2));
    sparse::DeviceHead head;
    std::vector<std::int32_t> tiles, columns;
    if (form == 1) {
      head.form = sparse::IndexForm::window;
      head.local = std::min(kv_len, one_of({0, 1, 2, 63, 64, 65, 130, 200, kv_len}));
      head.sink = std::min(kv_len, one_of({0, 1, 64, 130, kv_len}));
    } else if (form == 2) {
      head.form = sparse::IndexForm::relative;
      for (int start = one_of({0, 0, -5, -64, -kv_len / 2}); start > -kv_len && random() % 16 != 0;
           start -= random() % 3 != 0 ? kTileKeys : kTileKeys + static_cast<int>(random() % 200))
        tiles.push_back(start);
      for (int key = 0; key < kv_len; ++key)
        if (random() % 8 == 0) columns.push_back(key);
      if (random() % 2 == 0) columns.clear();
      head.num_tiles = static_cast<std::int32_t>(tiles.size());
      head.num_columns = static_cast<std::int32_t>(columns.size());
    }
    host.list(head, tiles, columns);
    SCOPED_TRACE("q_len " + std::to_string(q_len) + " kv_len " + std::to_string(kv_len) + " causal " +
                 std::to_string(causal) + " form " + std::to_string(form) + " tiles a step " +
                 std::to_string(host.plan.tiles_a_step) + " local " + std::to_string(head.local) + " sink " +
                 std::to_string(head.sink));
    Checker(host).check();
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace minference::kernels::cuda::sm90
