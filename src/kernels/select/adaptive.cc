#include <algorithm>
#include <limits>

#include "kernels/select/select.h"
#include "kernels/select/threshold.h"
#include "kernels/select/top_k.h"

// docs/algorithm.md, "Selection: adaptive", derives what this file computes.
namespace minference::kernels {
namespace {

constexpr std::int64_t kRows = 64;  // rows behind the sums, and offsets of a band
constexpr std::int64_t kBand = 64;
constexpr std::int64_t kForcedBands = (kForcedOffsets + kBand - 1) / kBand;
constexpr std::int64_t kLeastColumns = 128;  // docs/algorithm.md, "Why a floor of columns"

std::vector<double> prefix_sums(std::span<const float> values) {
  std::vector<double> prefix(values.size() + 1);
  for (std::size_t i = 0; i < values.size(); ++i) prefix[i + 1] = prefix[i] + double{values[i]};
  return prefix;
}

class AdaptiveSelection {
 public:
  AdaptiveSelection(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                    double column_cost)
      : length_(static_cast<std::int64_t>(column_sums.size())),
        num_bands_((length_ + kBand - 1) / kBand),
        column_sums_(column_sums),
        diagonal_prefix_(prefix_sums(diagonal_sums)),
        column_worth_(column_sums.size()),
        band_worth_(static_cast<std::size_t>(num_bands_) + 1) {
    // A diagonal crosses 64 columns in the sampled rows and a column 64 diagonals, so each shows in the
    // other's sums spread evenly. What a column has beyond the even share of its diagonals is its own; what a
    // diagonal has beyond the even share of those columns is the diagonal's.
    std::vector<float> own(column_sums.size());
    const double columns_per_tile = 1 / column_cost;
    for (std::int64_t k = 0; k < length_; ++k) {
      const double even = sum_of_offsets(length_ - kRows - k, length_ - k) / kRows;
      own[k] = std::max(0.0f, static_cast<float>(column_sums[k] - even));
      column_worth_[k] = worth_of_column(own[k], columns_per_tile);
    }
    std::fill_n(column_worth_.begin(), std::min(kForcedColumns, length_), kForced);
    least_columns_ = top_k(own, kLeastColumns, kForcedColumns);

    const std::vector<double> own_prefix = prefix_sums(own);
    for (std::int64_t j = 0; j < num_bands_; ++j) {
      double worth = 0;
      for (std::int64_t o = j * kBand; o < std::min((j + 1) * kBand, length_); ++o) {
        const std::int64_t first_key = std::max<std::int64_t>(0, length_ - kRows - o), end_key = length_ - o;
        const double even = (own_prefix[end_key] - own_prefix[first_key]) / kRows;
        worth += std::max(0.0, double{diagonal_sums[o]} - even);
      }
      band_worth_[j] = j < kForcedBands ? kForced : static_cast<float>(worth);
    }
  }

  // The largest worth at which the members worth at least that keep `share` of the mass; 0 when none does.
  float threshold_for(double share) const {
    const double wanted = share * diagonal_prefix_.back();
    if (!(wanted < diagonal_prefix_.back())) return 0;
    const std::vector<double> kept = kept_masses();
    return threshold_of(largest_code([&](std::int32_t code) { return kept[code] >= wanted; }));
  }

  Selection members(float threshold) const {
    Selection selection;
    auto least = least_columns_.begin();
    for (std::int64_t k = 0; k < length_; ++k) {
      const bool is_least = least != least_columns_.end() && *least == k;
      if (is_least) ++least;
      if (is_least || (column_worth_[k] >= threshold && threshold > 0))
        selection.columns.push_back(static_cast<std::int32_t>(k));
    }
    auto& offsets = selection.offsets;
    for (std::int64_t j = 0; j < num_bands_; ++j) {
      if (!(band_worth_[j] >= threshold)) continue;
      const std::int64_t first = j * kBand, last = std::min(first + kBand, length_ - 1);
      if (offsets.empty() || offsets.back() < first) offsets.push_back(static_cast<std::int32_t>(first));
      if (last > first) offsets.push_back(static_cast<std::int32_t>(last));
    }
    return selection;
  }

 private:
  static constexpr float kForced = std::numeric_limits<float>::max();

  double sum_of_offsets(std::int64_t begin, std::int64_t end) const {
    return diagonal_prefix_[std::max<std::int64_t>(0, end)] -
           diagonal_prefix_[std::max<std::int64_t>(0, begin)];
  }

  // A lower bound of the mass that the members keep in the sampled rows, at the threshold of each code: the
  // bands are disjoint, and a column adds at least what is left after all of the diagonals that cross it inside
  // kept bands.
  std::vector<double> kept_masses() const {
    std::vector<double> kept(kCodes);
    for (std::int64_t j = 0; j < num_bands_; ++j)
      kept[code_of(band_worth_[j])] += sum_of_offsets(j * kBand, std::min((j + 1) * kBand, length_));
    for (std::int64_t k = 0; k < length_; ++k) {
      const std::int32_t code = code_of(column_worth_[k]);
      if (code == 0) continue;
      const std::int64_t begin = std::max<std::int64_t>(0, length_ - kRows - k), end = length_ - k;
      const std::int64_t middle = std::min((begin / kBand + 1) * kBand, end);
      const Crossing first{code_of(band_worth_[begin / kBand]), sum_of_offsets(begin, middle)};
      const Crossing second{code_of(band_worth_[middle / kBand]), sum_of_offsets(middle, end)};
      const ColumnSteps steps = steps_of_column(double{column_sums_[k]}, code, first, second);
      kept[code] += steps.own;
      kept[first.code] += steps.first;
      kept[second.code] += steps.second;
    }
    for (std::int32_t code = kCodes - 1; code > 0; --code) kept[code - 1] += kept[code];
    return kept;
  }

  std::int64_t length_;
  std::int64_t num_bands_;
  std::span<const float> column_sums_;
  std::vector<double> diagonal_prefix_;
  std::vector<float> column_worth_;          // mass of its own per cost, in tiles
  std::vector<std::int32_t> least_columns_;  // kept whatever the share, and not counted towards it
  std::vector<float> band_worth_;            // one more than bands, without any
};

}  // namespace

Selection select_adaptive(std::span<const float> column_sums, std::span<const float> diagonal_sums,
                          double share, double column_cost) {
  const AdaptiveSelection selection(column_sums, diagonal_sums, column_cost);
  return selection.members(selection.threshold_for(share));
}

}  // namespace minference::kernels
