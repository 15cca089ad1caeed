// Times estimation, published selection and the index of Llama-3.1-8B's layer 15 on synthetic heads, beside
// dense attention of the same layer.
//
//   bench_estimate_cpu [--threads N] [tokens ...]        MINFERENCE_ISA forces an instruction set
//
// `share` is the time of all three over the time of our dense attention, which is measured on one KV head and
// its query heads of at most 16384 tokens, interleaved, and scaled by heads and by tokens squared. Medians.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "minference/minference.h"
#include "synthetic_heads.h"

namespace minference::bench {
namespace {

constexpr std::int64_t kNumKvHeads = 8, kHeadDim = 128;
constexpr int kRounds = 5;

void check(minference_status status) {
  if (status == MINFERENCE_OK) return;
  std::fprintf(stderr, "%s\n", minference_last_error());
  std::exit(1);
}

template <class Handle, void (*destroy)(Handle*)>
struct Destroy {
  void operator()(Handle* handle) const { destroy(handle); }
};
using Context = std::unique_ptr<minference_context, Destroy<minference_context, minference_context_destroy>>;
using Patterns =
    std::unique_ptr<minference_patterns, Destroy<minference_patterns, minference_patterns_destroy>>;
using Index = std::unique_ptr<minference_index, Destroy<minference_index, minference_index_destroy>>;

minference_tensor contiguous(void* data, std::int64_t heads, std::int64_t rows, std::int64_t dim, int dtype) {
  return {data, {1, heads, rows, dim}, {heads * rows * dim, rows * dim, dim, 1}, dtype, 0};
}

minference_tensor contiguous(std::vector<std::uint16_t>& data, std::int64_t heads, std::int64_t rows) {
  return contiguous(data.data(), heads, rows, kHeadDim, MINFERENCE_BF16);
}

template <class Body>
double seconds(Body&& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

std::vector<minference_head_pattern> layer_15() {
  minference_patterns* handle = nullptr;
  check(minference_patterns_builtin("meta-llama/Llama-3.1-8B-Instruct", &handle));
  const Patterns patterns(handle);
  std::vector<minference_head_pattern> heads(
      static_cast<std::size_t>(minference_patterns_num_query_heads(patterns.get())));
  check(minference_patterns_layer(patterns.get(), 15, heads.data()));
  return heads;
}

class Layer {
 public:
  Layer(minference_context* context, std::vector<minference_head_pattern> patterns, std::int64_t num_tokens)
      : context_(context),
        patterns_(std::move(patterns)),
        num_heads_(static_cast<std::int64_t>(patterns_.size())),
        num_tokens_(num_tokens),
        heads_(make_synthetic_heads(num_tokens, kNumKvHeads, kHeadDim, 0, types(), num_tokens)),
        column_sums_(static_cast<std::size_t>(num_heads_ * num_tokens)),
        diagonal_sums_(column_sums_.size()),
        columns_(column_sums_.size()),
        offsets_(column_sums_.size()),
        column_counts_(patterns_.size()),
        offset_counts_(patterns_.size()) {}

  void estimate() {
    minference_estimate_args args{};
    args.struct_size = sizeof args;
    args.query = query();
    args.key = key();
    args.column_sums = sums(column_sums_);
    args.diagonal_sums = sums(diagonal_sums_);
    check(minference_estimate(context_, &args));
  }

  void select() {
    minference_select_args args{};
    args.struct_size = sizeof args;
    args.column_sums = sums(column_sums_);
    args.diagonal_sums = sums(diagonal_sums_);
    args.heads = patterns_.data();
    args.num_heads = num_heads_;
    args.columns = columns_.data();
    args.column_capacity = num_tokens_;
    args.column_counts = column_counts_.data();
    args.offsets = offsets_.data();
    args.offset_capacity = num_tokens_;
    args.offset_counts = offset_counts_.data();
    check(minference_select(context_, &args));
  }

  // Estimation, selection and index.
  Index index() {
    minference_index_args args{};
    args.struct_size = sizeof args;
    args.query = query();
    args.key = key();
    args.heads = patterns_.data();
    args.num_heads = num_heads_;
    args.fallback = MINFERENCE_FALLBACK_OFF;
    minference_index* handle = nullptr;
    check(minference_index_create(context_, &args, &handle));
    return Index(handle);
  }

 private:
  std::vector<std::string_view> types() const {
    std::vector<std::string_view> names;
    for (const auto& pattern : patterns_)
      names.push_back(head_type_of_budget(pattern.size[0], pattern.size[1]));
    return names;
  }
  minference_tensor query() { return contiguous(heads_.query, num_heads_, num_tokens_); }
  minference_tensor key() { return contiguous(heads_.key, kNumKvHeads, num_tokens_); }
  minference_tensor sums(std::vector<float>& data) {
    return contiguous(data.data(), num_heads_, 1, num_tokens_, MINFERENCE_F32);
  }

  minference_context* context_;
  std::vector<minference_head_pattern> patterns_;
  std::int64_t num_heads_, num_tokens_;
  SyntheticHeads heads_;
  std::vector<float> column_sums_, diagonal_sums_;
  std::vector<std::int32_t> columns_, offsets_;
  std::vector<std::int64_t> column_counts_, offset_counts_;
};

// Dense attention of one KV head and its query heads.
class DenseGroup {
 public:
  DenseGroup(minference_context* context, std::int64_t group, std::int64_t num_tokens)
      : context_(context),
        heads_(make_synthetic_heads(num_tokens, 1, kHeadDim, 0,
                                    std::vector<std::string_view>(static_cast<std::size_t>(group), "mixed"),
                                    num_tokens)),
        out_(heads_.query.size()),
        patterns_(static_cast<std::size_t>(group)) {}

  void run() {
    minference_prefill_args args{};
    args.struct_size = sizeof args;
    args.query = contiguous(heads_.query, heads_.num_query_heads, heads_.num_tokens);
    args.key = contiguous(heads_.key, 1, heads_.num_tokens);
    args.value = contiguous(heads_.value, 1, heads_.num_tokens);
    args.out = contiguous(out_, heads_.num_query_heads, heads_.num_tokens);
    args.heads = patterns_.data();  // zeros: dense
    args.num_heads = heads_.num_query_heads;
    check(minference_prefill(context_, &args, nullptr));
  }

 private:
  minference_context* context_;
  SyntheticHeads heads_;
  std::vector<std::uint16_t> out_;
  std::vector<minference_head_pattern> patterns_;
};

double density_of(const minference_index* index) {
  double total = 0;
  const std::int64_t num_heads = minference_index_num_heads(index);
  for (std::int64_t h = 0; h < num_heads; ++h) {
    minference_index_head head{};
    head.struct_size = sizeof head;
    check(minference_index_get(index, h, &head));
    total += static_cast<double>(head.pairs) / static_cast<double>(head.all_pairs);
  }
  return total / static_cast<double>(num_heads);
}

void measure(minference_context* context, std::int64_t num_tokens) {
  const auto patterns = layer_15();
  const auto group = static_cast<std::int64_t>(patterns.size()) / kNumKvHeads;
  const std::int64_t dense_tokens = std::min<std::int64_t>(num_tokens, 16384);
  Layer layer(context, patterns, num_tokens);
  DenseGroup dense(context, group, dense_tokens);
  std::vector<double> estimate, select, whole, dense_group;
  double density = 0;
  for (int round = 0; round < kRounds; ++round) {
    estimate.push_back(seconds([&] { layer.estimate(); }));
    select.push_back(seconds([&] { layer.select(); }));
    Index index;
    whole.push_back(seconds([&] { index = layer.index(); }));
    density = density_of(index.get());
    dense_group.push_back(seconds([&] { dense.run(); }));
  }
  const double ratio = static_cast<double>(num_tokens) / static_cast<double>(dense_tokens);
  const double dense_seconds = median(dense_group) * kNumKvHeads * ratio * ratio;
  const double flops =
      2.0 * static_cast<double>(num_tokens * num_tokens) * kHeadDim * static_cast<double>(patterns.size());
  std::printf("%8lld %10.1f %10.1f %10.1f %10.2f %10.3f %8.2f%% %8.1f%%\n",
              static_cast<long long>(num_tokens), 1e3 * median(estimate), 1e3 * median(select),
              1e3 * median(whole), dense_seconds, 1e-12 * flops / dense_seconds,
              100 * median(whole) / dense_seconds, 100 * density);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  minference_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 1;
  std::vector<std::int64_t> lengths;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
      options.num_threads = std::atoi(argv[++i]);
    else
      lengths.push_back(std::atoll(argv[i]));
  }
  if (lengths.empty()) lengths = {8192, 32768, 131072};
  minference_context* handle = nullptr;
  check(minference_context_create(&options, &handle));
  const Context context(handle);
  std::printf("Llama-3.1-8B layer 15, bf16, %d threads, estimate kernel %s\n",
              minference_context_num_threads(handle),
              minference_kernel_name("estimate", minference_context_isa(handle), MINFERENCE_BF16, kHeadDim));
  std::printf("%8s %10s %10s %10s %10s %10s %9s %9s\n", "tokens", "estimate", "select", "all three", "dense",
              "dense", "share", "density");
  std::printf("%8s %10s %10s %10s %10s %10s\n", "", "ms", "ms", "ms", "s", "TFLOP/s");
  for (const std::int64_t num_tokens : lengths) measure(handle, num_tokens);
  return 0;
}

}  // namespace
}  // namespace minference::bench

int main(int argc, char** argv) {
  return minference::bench::run(argc, argv);
}
