// minference.hpp against a softmax written here in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <minference/minference.hpp>
#include <random>
#include <vector>

namespace {

using minference::Extents;

constexpr std::int64_t kQueryHeads = 4, kKvHeads = 2, kQLen = 301, kKvLen = 517, kDim = 64;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> normal(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

// One sequence; key and value [1, Hkv, kv_len, D] are kept length first, as [1, kv_len, Hkv, D].
struct Layer {
  std::vector<float> query = normal(kQueryHeads * kQLen * kDim, 1), key = normal(kKvHeads * kKvLen * kDim, 2),
                     value = normal(kKvHeads * kKvLen * kDim, 3), out, lse;

  Layer() : out(query.size(), kNaN), lse(kQueryHeads * kQLen, kNaN) {}

  minference::TensorView query_view() const { return {query, {1, kQueryHeads, kQLen, kDim}}; }
  minference::TensorView key_view() const { return length_first(key); }
  minference::TensorView value_view() const { return length_first(value); }
  minference::MutableTensorView out_view() { return {out, {1, kQueryHeads, kQLen, kDim}}; }
  minference::MutableTensorView lse_view() { return {lse, {1, kQueryHeads, kQLen, 1}}; }

  // Asserts that out and lse are attention over the pairs that `keeps(head, query position, key)` names.
  template <class Keeps>
  void expect(Keeps keeps) const {
    for (std::int64_t h = 0; h < kQueryHeads; ++h)
      for (std::int64_t i = 0; i < kQLen; ++i) expect_row(h, i, keeps);
  }

 private:
  static minference::TensorView length_first(const std::vector<float>& values) {
    return minference::TensorView::length_first(values.data(), minference::DType::f32,
                                                {1, kKvHeads, kKvLen, kDim});
  }
  static std::size_t at(std::int64_t row, std::int64_t d) { return static_cast<std::size_t>(row * kDim + d); }

  template <class Keeps>
  void expect_row(std::int64_t h, std::int64_t i, Keeps keeps) const {
    const std::int64_t position = kKvLen - kQLen + i, row = h * kQLen + i,
                       kv_head = h / (kQueryHeads / kKvHeads);
    std::vector<double> mean(kDim, 0.0);
    double sum = 0;
    for (std::int64_t k = 0; k <= position; ++k) {
      if (!keeps(h, position, k)) continue;
      double score = 0;
      for (std::int64_t d = 0; d < kDim; ++d)
        score += double{query[at(row, d)]} * double{key[at(k * kKvHeads + kv_head, d)]};
      const double weight = std::exp(score / std::sqrt(double{kDim}));
      sum += weight;
      for (std::int64_t d = 0; d < kDim; ++d)
        mean[static_cast<std::size_t>(d)] += weight * double{value[at(k * kKvHeads + kv_head, d)]};
    }
    ASSERT_NEAR(lse[static_cast<std::size_t>(row)], std::log(sum), 1e-5) << "head " << h << " row " << i;
    for (std::int64_t d = 0; d < kDim; ++d)
      ASSERT_NEAR(out[at(row, d)], mean[static_cast<std::size_t>(d)] / sum, 1e-5)
          << "head " << h << " row " << i;
  }
};

minference::Status status_of(const auto& call) {
  try {
    call();
  } catch (const minference::Error& error) {
    EXPECT_NE(std::string_view(error.what()), "");
    return error.status();
  }
  ADD_FAILURE() << "no Error was thrown";
  return minference::Status::internal;
}

TEST(CppFace, PrefillFollowsEveryHeadsPattern) {
  minference::Context context({.num_threads = 2});
  EXPECT_EQ(context.num_threads(), 2);
  Layer layer;
  const std::vector<minference::HeadPattern> heads{minference::dense(), minference::a_shape(3, 70),
                                                   minference::dense(), minference::a_shape(0, 1)};
  const auto statistics =
      prefill(context, layer.query_view(), layer.key_view(), layer.value_view(), layer.out_view(), heads,
              {.fallback = minference::Fallback::off, .lse = layer.lse_view()});
  layer.expect([](std::int64_t h, std::int64_t q, std::int64_t k) {
    return h % 2 == 0 || (h == 1 && (k < 3 || q - k < 70)) || (h == 3 && q == k);
  });
  ASSERT_EQ(statistics.head_density.size(), heads.size());
  EXPECT_EQ(statistics.head_density[0], 1.0);
  EXPECT_LT(statistics.head_density[3], 0.01);
  EXPECT_EQ(statistics.head_fallback, std::vector<std::int32_t>(heads.size(), 0));
  EXPECT_GT(statistics.density(), 0.5);
  EXPECT_LT(statistics.density(), 1.0);
}

TEST(CppFace, HeadsOfAKvHeadShareAnIndex) {
  minference::Context context;
  Layer layer;
  const std::vector<minference::HeadPattern> heads{minference::a_shape(3, 10), minference::a_shape(0, 70),
                                                   minference::dense(), minference::a_shape(0, 1)};
  prefill(context, layer.query_view(), layer.key_view(), layer.value_view(), layer.out_view(), heads,
          {.fallback = minference::Fallback::off, .share_index = true, .lse = layer.lse_view()});
  layer.expect([](std::int64_t h, std::int64_t q, std::int64_t k) {
    return h == 2 || (h < 2 && (k < 3 || q - k < 70)) || (h == 3 && q == k);
  });
  const auto index = minference::Index::create(context, layer.query_view(), layer.key_view(), heads,
                                               {.fallback = minference::Fallback::off, .share_index = true});
  EXPECT_EQ(index.head(0).local, 70);
  EXPECT_EQ(index.head(1).sink, 3);
  EXPECT_EQ(index.head(3).local, 1);
}

TEST(CppFace, StepsComposeToAttention) {
  minference::Context context;
  Layer layer;
  const std::vector<minference::HeadPattern> heads(kQueryHeads, minference::vertical_slash(40, 110));
  const auto estimate = minference::estimate(context, layer.query_view(), layer.key_view());
  const auto members = select(context, estimate, heads);
  ASSERT_EQ(members.size(), heads.size());
  EXPECT_EQ(members[0].columns.size(), 40u);
  EXPECT_EQ(members[0].offsets.size(), 110u);

  std::vector<std::int32_t> columns, offsets;
  for (const auto& head : members) {
    columns.insert(columns.end(), head.columns.begin(), head.columns.end());
    offsets.insert(offsets.end(), head.offsets.begin(), head.offsets.end());
  }
  const auto index = minference::Index::vertical_slash({columns, {1, kQueryHeads, 1, 40}},
                                                       {offsets, {1, kQueryHeads, 1, 110}}, kQLen, kKvLen);
  ASSERT_EQ(index.num_heads(), kQueryHeads);
  attention(context, layer.query_view(), layer.key_view(), layer.value_view(), layer.out_view(), index,
            {.lse = layer.lse_view()});
  layer.expect([&](std::int64_t h, std::int64_t q, std::int64_t k) {
    const auto head = index.head(h);
    // The position of the first row of the query's row block.
    const std::int64_t first = kKvLen - kQLen;
    const std::int64_t block = first + (q - first) / 64 * 64;
    for (std::int64_t tile : head.tiles)
      if (k >= block + tile && k < block + tile + 64) return true;
    for (std::int64_t column : head.columns)
      if (k == column) return true;
    return false;
  });

  const auto same = minference::Index::create(context, layer.query_view(), layer.key_view(), heads,
                                              {.fallback = minference::Fallback::off});
  for (std::int64_t h = 0; h < kQueryHeads; ++h) {
    EXPECT_EQ(same.head(h).form, minference::IndexForm::relative);
    EXPECT_EQ(same.head(h).pairs, index.head(h).pairs);
    EXPECT_EQ(same.head(h).density(), index.head(h).density());
  }
}

TEST(CppFace, PatternsGoThroughJsonAndFiles) {
  const std::vector<minference::HeadPattern> heads{minference::dense(), minference::a_shape(128, 3968),
                                                   minference::vertical_slash(1000, 6096),
                                                   minference::block_sparse(100)};
  const auto patterns = minference::Patterns::create(2, heads, "a test");
  EXPECT_EQ(patterns.num_layers(), 2);
  EXPECT_EQ(patterns.num_query_heads(), 2);
  EXPECT_EQ(patterns.source(), "a test");
  patterns.check(2, 2);
  EXPECT_EQ(status_of([&] { patterns.check(3, 2); }), minference::Status::invalid_argument);

  const auto path = std::filesystem::path(testing::TempDir()) / "cpp_face_test.json";
  patterns.save(path.string());
  const auto loaded = minference::Patterns::load(path.string());
  std::filesystem::remove(path);
  EXPECT_EQ(loaded.json(), patterns.json());
  EXPECT_EQ(minference::Patterns::parse(patterns.json(), "text").json(), patterns.json());
  EXPECT_EQ(loaded.layer(1)[0].pattern, MINFERENCE_VERTICAL_SLASH);
  EXPECT_EQ(loaded.layer(1)[0].size[1], 6096);
  EXPECT_EQ(status_of([&] { minference::Patterns::load(path.string()); }), minference::Status::io);
  EXPECT_EQ(status_of([] { minference::Patterns::parse("{", "text"); }),
            minference::Status::invalid_argument);

  for (const auto& model : minference::supported_models())
    EXPECT_GT(minference::Patterns::builtin(model).num_layers(), 0) << model;
  EXPECT_EQ(status_of([] { minference::Patterns::builtin("no/such-model"); }),
            minference::Status::invalid_argument);
}

TEST(CppFace, MovedFromContextIsRefused) {
  minference::Context context({.num_threads = 1});
  const minference::Context taken = std::move(context);
  EXPECT_NE(taken.isa(), "");
  EXPECT_EQ(context.isa(), "");
  EXPECT_EQ(context.num_threads(), 0);
  const Layer layer;
  EXPECT_EQ(status_of([&] { estimate(context, layer.query_view(), layer.key_view()); }),
            minference::Status::invalid_argument);
}

TEST(CppFace, DensityOfNoPairsIsOne) {
  const minference::TensorView nothing(nullptr, minference::DType::f32, {1, 2, 0, 64});
  minference::Context context({.num_threads = 1});
  const std::vector<minference::HeadPattern> heads(2, minference::a_shape(4, 4));
  const minference::MutableTensorView out(nullptr, minference::DType::f32, {1, 2, 0, 64});
  const auto statistics = prefill(context, nothing, nothing, nothing, out, heads);
  EXPECT_EQ(statistics.density(), 1.0);
  EXPECT_EQ(statistics.head_density, (std::vector<double>{1.0, 1.0}));
  EXPECT_EQ(statistics.head_fallback, (std::vector<std::int32_t>{0, 0}));
  EXPECT_EQ(minference::Index::create(context, nothing, nothing, heads).head(0).density(), 1.0);
}

TEST(CppFace, RefusalsNameTheArgument) {
  minference::Context context;
  Layer layer;
  try {
    prefill(context, layer.query_view(), layer.key_view(), layer.value_view(), layer.out_view(), {});
    FAIL() << "no heads were accepted";
  } catch (const minference::Error& error) {
    EXPECT_EQ(error.status(), minference::Status::invalid_argument);
    EXPECT_NE(std::string_view(error.what()).find("num_heads"), std::string_view::npos) << error.what();
    EXPECT_NE(std::string_view(error.what()).find("got 0"), std::string_view::npos) << error.what();
  }
  const std::vector<float> short_one(7);
  EXPECT_EQ(status_of([&] {
              minference::TensorView(short_one, Extents{1, 1, 2, 4});
            }),
            minference::Status::invalid_argument);
  EXPECT_EQ(status_of([] { minference::Context({.isa = "mmx"}); }), minference::Status::invalid_argument);
  EXPECT_EQ(status_of([] { minference::kernel_name("cook", minference::DType::f32, 64); }),
            minference::Status::invalid_argument);
  EXPECT_EQ(status_of([] { minference::kernel_name("attention", minference::DType::f32, 12); }),
            minference::Status::unsupported);
  const minference::TensorView negative(layer.query.data(), minference::DType::f32, {1, -2, kQLen, kDim});
  EXPECT_EQ(status_of([&] { estimate(context, negative, layer.key_view()); }),
            minference::Status::invalid_argument);
  EXPECT_NE(minference::kernel_name("attention", minference::DType::bf16, 128), "");
  EXPECT_EQ(minference::version(), MINFERENCE_VERSION);
}

}  // namespace
