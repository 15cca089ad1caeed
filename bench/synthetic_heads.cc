#include "synthetic_heads.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>
#include <numbers>
#include <span>

// Every expression keeps the order and the precision of synthetic.py, so that the values are equal to the
// last bit; this file must be compiled without contraction of products and sums.
namespace minference::bench {
namespace {

struct Range {
  double low, high;
};

struct HeadType {
  Range slash;
  std::int64_t first_pair, last_pair;
  Range sink, column, noise, topic;
  bool far = false;
};

const std::map<std::string_view, HeadType> kHeadTypes = {
    {"local", {{11.5, 13.0}, 6, 36, {12.0, 13.5}, {3.0, 5.0}, {0.35, 0.6}, {0.0, 0.0}}},
    {"slash", {{11.5, 13.0}, 2, 34, {10.5, 12.0}, {3.0, 5.0}, {0.5, 0.8}, {0.0, 0.0}, true}},
    {"vertical", {{6.0, 8.0}, 8, 40, {10.0, 11.5}, {8.0, 9.5}, {0.6, 0.9}, {0.0, 0.0}}},
    {"mixed", {{10.0, 11.5}, 4, 40, {11.0, 12.5}, {6.5, 8.0}, {0.6, 0.9}, {0.0, 0.8}}},
    {"broad", {{7.0, 9.0}, 4, 38, {10.0, 11.5}, {6.0, 7.5}, {0.7, 1.0}, {1.0, 2.0}}},
};

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;

enum Purpose : std::uint64_t {
  kSegments,
  kKvHead,
  kQueryHead,
  kKeyNoise,
  kQueryNoise,
  kValue,
  kColumnPlace,
  kColumnHeight
};

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

// A stream of 64-bit words, each a hash of its position.
class Stream {
 public:
  Stream(std::uint64_t seed, Purpose purpose, std::uint64_t head = 0)
      : key_(mix(mix(mix(seed + kGolden) + purpose + kGolden) + head + kGolden)) {}

  std::uint64_t word(std::int64_t i) const { return mix(static_cast<std::uint64_t>(i + 1) * kGolden + key_); }
  float uniform(std::int64_t i) const { return static_cast<float>(word(i) >> 40) * 0x1p-24f; }
  float normal(std::int64_t i) const {
    const std::uint64_t w = word(i);
    const std::uint64_t total = (w & 0xffff) + (w >> 16 & 0xffff) + (w >> 32 & 0xffff) + (w >> 48);
    return (static_cast<float>(total) - 131070.0f) * static_cast<float>(1.0 / 37837.227);
  }

 private:
  std::uint64_t key_;
};

double rounded(double x) {
  return std::floor(x * 0x1p20 + 0.5) * 0x1p-20;
}

class Draws {
 public:
  explicit Draws(Stream stream) : stream_(stream) {}

  double uniform(double low = 0.0, double high = 1.0) {
    return low + (high - low) * (static_cast<double>(stream_.word(next_++) >> 40) * 0x1p-24);
  }
  double uniform(Range range) { return uniform(range.low, range.high); }
  double exponential() { return rounded(-std::log(uniform() + 0x1p-25)); }
  std::vector<double> direction(std::int64_t size) {
    std::vector<double> values(static_cast<std::size_t>(size));
    for (double& x : values) {
      x = 0.0;
      for (int i = 0; i < 4; ++i) x += uniform();
      x -= 2.0;
    }
    return normalized(values);
  }
  static std::vector<double> normalized(std::vector<double> values) {
    double square = 0;
    for (const double x : values) square += x * x;
    for (double& x : values) x = rounded(x / std::sqrt(square));
    return values;
  }

 private:
  Stream stream_;
  std::int64_t next_ = 0;
};

struct Turn {
  float cos, sin;
};

Turn cos_sin(double turns) {
  const double x = (turns - std::nearbyint(turns)) * (std::numbers::pi / 2.0);
  const double square = x * x;
  double cos = 1.0, sin = 1.0;
  for (int n = 8; n > 0; --n) {
    cos = 1.0 - square * cos * (1.0 / ((2 * n - 1) * (2 * n)));
    sin = 1.0 - square * sin * (1.0 / ((2 * n) * (2 * n + 1)));
  }
  sin = x * sin;
  for (int i = 0; i < 2; ++i) {
    const double doubled = 2.0 * (sin * cos);
    cos = 1.0 - 2.0 * (sin * sin);
    sin = doubled;
  }
  return {static_cast<float>(cos), static_cast<float>(sin)};
}

std::uint16_t to_bfloat16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr std::int64_t kNumTopics = 32;
constexpr std::int64_t kNumSinks = 4;
constexpr float kColumnShare = 0.005f;
constexpr double kNoise = 0.65;
constexpr double kSinkHeight = 24.0, kColumnHeightMax = 18.0;

struct Pairs {
  explicit Pairs(std::int64_t head_dim)
      : count(head_dim / 2), first_topic(count * 40 / 64), first_still(count * 56 / 64), turns(count) {
    for (std::int64_t j = 0; j < count; ++j) {
      double frequency = std::pow(500000.0, -static_cast<double>(j) / static_cast<double>(count));
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const double smooth = std::clamp((8192.0 / wavelength - 1.0) / 3.0, 0.0, 1.0);
      frequency *= smooth + (1.0 - smooth) / 8.0;
      turns[j] = std::floor(frequency / (2.0 * std::numbers::pi) * 0x1p44 + 0.5) * 0x1p-44;
    }
  }

  std::int64_t count, first_topic, first_still;
  std::vector<double> turns;  // per token
};

using Floats = std::vector<float>;

Floats as_floats(const std::vector<double>& values) {
  return Floats(values.begin(), values.end());
}

struct KvHead {
  KvHead(std::uint64_t seed, std::int64_t head, const Pairs& pairs, double root_dim)
      : mean(pairs.count), phase(pairs.count), real(pairs.count), imaginary(pairs.count) {
    Draws draws(Stream(seed, kKvHead, head));
    double total = 0;
    const std::int64_t begin = pairs.count * 2 / 64, end = pairs.count * 41 / 64;
    for (std::int64_t j = begin; j < end; ++j) total += mean[j] = 0.3 + 0.7 * draws.exponential();
    for (double& m : mean) m = rounded(std::sqrt(9.0 * root_dim * m / total));
    for (std::int64_t j = 0; j < pairs.count; ++j) {
      phase[j] = draws.uniform();
      const Turn turn = cos_sin(phase[j]);
      real[j] = static_cast<float>(mean[j]) * turn.cos;
      imaginary[j] = static_cast<float>(mean[j]) * turn.sin;
    }
    const std::int64_t still = 2 * (pairs.count - pairs.first_still);
    sink = draws.direction(still);
    column = draws.direction(still);
    double overlap = 0;
    for (std::int64_t i = 0; i < still; ++i) overlap += column[i] * sink[i];
    for (std::int64_t i = 0; i < still; ++i) column[i] = column[i] - overlap * sink[i];
    column = Draws::normalized(column);
    for (std::int64_t i = 0; i < kNumSinks; ++i)
      sink_heights[i] = static_cast<float>(kSinkHeight * (i == 0 ? 1.0 : draws.uniform(0.75, 0.95)));
    for (Floats& topic : topics)
      topic = as_floats(draws.direction(2 * (pairs.first_still - pairs.first_topic)));
    const Stream value(seed, kValue, head);
    for (std::int64_t d = 0; d < 2 * pairs.count; ++d) value_mean.push_back(value.normal(d));
  }

  std::vector<double> mean, phase;  // amplitude and phase (turns) of the keys' mean
  Floats real, imaginary;           // the mean itself
  std::vector<double> sink, column;
  std::array<float, kNumSinks> sink_heights;
  std::array<Floats, kNumTopics> topics;
  Floats value_mean;
};

double topic_strength(double root_dim) {
  return std::sqrt(1.2 * root_dim);
}

struct QueryHead {
  QueryHead(std::uint64_t seed, std::int64_t head, const HeadType& type, const KvHead& kv_head,
            const Pairs& pairs, double root_dim)
      : real(pairs.count), imaginary(pairs.count) {
    Draws draws(Stream(seed, kQueryHead, head));
    const double slash = draws.uniform(type.slash), sink = draws.uniform(type.sink);
    const double column = draws.uniform(type.column), noise_nats = draws.uniform(type.noise);
    const double topic_nats = draws.uniform(type.topic);
    double offset = 0;
    if (type.far) {
      offset = std::trunc(draws.uniform(0, 2));
      offset *= std::trunc(draws.uniform(16, 700));
    }
    std::vector<double> weights(pairs.count);
    double total = 0;
    const std::int64_t begin = pairs.count * type.first_pair / 64;
    const std::int64_t end = std::max(begin + 1, pairs.count * (type.last_pair + 1) / 64);
    for (std::int64_t j = begin; j < end; ++j) weights[j] = draws.exponential();
    for (std::int64_t j = 0; j < pairs.count; ++j) total += kv_head.mean[j] > 0 ? weights[j] : 0.0;
    for (std::int64_t j = 0; j < pairs.count; ++j) {
      const double m = kv_head.mean[j];
      const auto amplitude =
          static_cast<float>(m > 0 ? rounded(slash * root_dim * weights[j] / total / m) : 0.0);
      const Turn turn = cos_sin(kv_head.phase[j] - pairs.turns[j] * offset);
      real[j] = amplitude * turn.cos;
      imaginary[j] = amplitude * turn.sin;
    }
    for (std::int64_t j = pairs.first_still; j < pairs.count; ++j)
      for (int part = 0; part < 2; ++part) {
        const std::int64_t i = 2 * (j - pairs.first_still) + part;
        (part == 0 ? real : imaginary)[j] =
            static_cast<float>(rounded(sink * root_dim / kSinkHeight * kv_head.sink[i] +
                                       column * root_dim / kColumnHeightMax * kv_head.column[i]));
      }
    noise = static_cast<float>(0.64 * noise_nats / kNoise);
    topic = static_cast<float>(topic_nats * root_dim / topic_strength(root_dim));
  }

  Floats real, imaginary;
  float noise, topic;
};

std::vector<std::int64_t> topic_of_token(std::uint64_t seed, std::int64_t num_tokens) {
  Draws draws(Stream(seed, kSegments));
  std::vector<std::int64_t> topics;
  while (static_cast<std::int64_t>(topics.size()) < num_tokens) {
    const auto length = 32 + static_cast<std::int64_t>(400.0 * draws.exponential());
    topics.insert(topics.end(), static_cast<std::size_t>(length),
                  static_cast<std::int64_t>(draws.uniform() * kNumTopics));
  }
  return topics;
}

// One token's pairs before RoPE.
class Row {
 public:
  explicit Row(const Pairs& pairs) : pairs_(pairs), real_(pairs.count), imaginary_(pairs.count) {}

  void set_noise(const Stream& stream, std::int64_t token, float deviation) {
    const std::int64_t first = token * 2 * pairs_.count;
    for (std::int64_t j = 0; j < pairs_.count; ++j) {
      real_[j] = stream.normal(first + j) * deviation;
      imaginary_[j] = stream.normal(first + pairs_.count + j) * deviation;
    }
  }
  void add(const Floats& real, const Floats& imaginary) {
    for (std::int64_t j = 0; j < pairs_.count; ++j) {
      real_[j] += real[j];
      imaginary_[j] += imaginary[j];
    }
  }
  void scale_moving_pairs(float factor) {
    for (std::int64_t j = 0; j < pairs_.first_still; ++j) {
      real_[j] *= factor;
      imaginary_[j] *= factor;
    }
  }
  template <class Values>
  void add_pairs(std::int64_t first_pair, float factor, const Values& values) {
    for (std::size_t i = 0; i < values.size(); i += 2) {
      real_[first_pair + i / 2] += factor * static_cast<float>(values[i]);
      imaginary_[first_pair + i / 2] += factor * static_cast<float>(values[i + 1]);
    }
  }
  void rotate(std::span<const Turn> turns, std::uint16_t* out) const {
    for (std::int64_t j = 0; j < pairs_.count; ++j) {
      out[j] = to_bfloat16(real_[j] * turns[j].cos - imaginary_[j] * turns[j].sin);
      out[pairs_.count + j] = to_bfloat16(real_[j] * turns[j].sin + imaginary_[j] * turns[j].cos);
    }
  }

 private:
  const Pairs& pairs_;
  Floats real_, imaginary_;
};

class Generator {
 public:
  Generator(SyntheticHeads& heads, std::uint64_t seed, const std::vector<std::string_view>& head_types)
      : heads_(heads),
        seed_(seed),
        pairs_(heads.head_dim),
        root_dim_(std::sqrt(static_cast<double>(heads.head_dim))),
        group_(heads.num_query_heads / heads.num_kv_heads),
        topics_(topic_of_token(seed, heads.num_tokens)),
        row_(pairs_),
        turns_(pairs_.count) {
    for (std::int64_t h = 0; h < heads.num_kv_heads; ++h) kv_heads_.emplace_back(seed, h, pairs_, root_dim_);
    for (std::int64_t h = 0; h < heads.num_query_heads; ++h)
      query_heads_.emplace_back(seed, h, kHeadTypes.at(head_types[h]), kv_heads_[h / group_], pairs_,
                                root_dim_);
  }

  void make_token(std::int64_t token) {
    for (std::int64_t j = 0; j < pairs_.count; ++j)
      turns_[j] = cos_sin(static_cast<double>(token) * pairs_.turns[j]);
    for (std::int64_t h = 0; h < heads_.num_kv_heads; ++h) {
      const std::int64_t start = (h * heads_.num_tokens + token) * heads_.head_dim;
      make_key(h, token, heads_.key.data() + start);
      make_value(h, token, heads_.value.data() + start);
    }
    const std::int64_t query_row = token - (heads_.num_tokens - heads_.num_query_rows);
    if (query_row < 0) return;
    for (std::int64_t h = 0; h < heads_.num_query_heads; ++h)
      make_query(h, token, heads_.query.data() + (h * heads_.num_query_rows + query_row) * heads_.head_dim);
  }

 private:
  void make_key(std::int64_t h, std::int64_t token, std::uint16_t* out) {
    const KvHead& head = kv_heads_[h];
    const bool is_sink = token < kNumSinks;
    row_.set_noise(Stream(seed_, kKeyNoise, h), token, static_cast<float>(kNoise));
    row_.add(head.real, head.imaginary);
    if (is_sink) {
      row_.scale_moving_pairs(0.2f);
      row_.add_pairs(pairs_.first_still, head.sink_heights[token], head.sink);
    } else {
      if (Stream(seed_, kColumnPlace, h).uniform(token) < kColumnShare) {
        const float height = 0.55f + 0.45f * Stream(seed_, kColumnHeight, h).uniform(token);
        row_.add_pairs(pairs_.first_still, static_cast<float>(kColumnHeightMax) * height, head.column);
      }
      row_.add_pairs(pairs_.first_topic, static_cast<float>(topic_strength(root_dim_)),
                     head.topics[topics_[token]]);
    }
    row_.rotate(turns_, out);
  }

  void make_query(std::int64_t h, std::int64_t token, std::uint16_t* out) {
    const QueryHead& head = query_heads_[h];
    row_.set_noise(Stream(seed_, kQueryNoise, h), token, head.noise);
    row_.add(head.real, head.imaginary);
    if (head.topic != 0)
      row_.add_pairs(pairs_.first_topic, head.topic, kv_heads_[h / group_].topics[topics_[token]]);
    row_.rotate(turns_, out);
  }

  void make_value(std::int64_t h, std::int64_t token, std::uint16_t* out) const {
    const Stream stream(seed_, kValue, h);
    for (std::int64_t d = 0; d < heads_.head_dim; ++d) {
      const float value = stream.normal((token + 1) * heads_.head_dim + d) + kv_heads_[h].value_mean[d];
      out[d] = to_bfloat16(token < kNumSinks ? value * 0.05f : value);
    }
  }

  SyntheticHeads& heads_;
  std::uint64_t seed_;
  Pairs pairs_;
  double root_dim_;
  std::int64_t group_;
  std::vector<std::int64_t> topics_;
  std::vector<KvHead> kv_heads_;
  std::vector<QueryHead> query_heads_;
  Row row_;
  std::vector<Turn> turns_;
};

}  // namespace

SyntheticHeads make_synthetic_heads(std::int64_t num_tokens, std::int64_t num_kv_heads, std::int64_t head_dim,
                                    std::uint64_t seed, const std::vector<std::string_view>& head_types,
                                    std::int64_t num_query_rows) {
  const auto num_query_heads = static_cast<std::int64_t>(head_types.size());
  SyntheticHeads heads{num_tokens, num_query_rows, num_query_heads, num_kv_heads, head_dim, {}, {}, {}};
  heads.query.resize(static_cast<std::size_t>(num_query_heads * num_query_rows * head_dim));
  heads.key.resize(static_cast<std::size_t>(num_kv_heads * num_tokens * head_dim));
  heads.value.resize(heads.key.size());
  Generator generator(heads, seed, head_types);
  for (std::int64_t token = 0; token < num_tokens; ++token) generator.make_token(token);
  return heads;
}

std::string_view head_type_of_budget(std::int32_t vertical, std::int32_t slash) {
  if (vertical == 100 && slash == 800) return "local";
  if (vertical == 30 && slash == 800) return "slash";
  if (vertical == 3500 && slash == 100) return "vertical";
  if (vertical == 1000 && slash == 6096) return "broad";
  return "mixed";
}

}  // namespace minference::bench
