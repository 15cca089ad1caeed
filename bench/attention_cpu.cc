// Attention kernels on the CPU, each beside a bare loop of its multiply instruction, interleaved.
//
//   bench_attention_cpu [--output FILE.json] [--pairs 21] [--lengths 8192,16384] [--kernels avx512bf16,avx2]
//                       [--workers 2]
//
// rate = 4 head_dim (causal pairs of the index) / time; share = rate / rate of the bare loops before and after.
// Times of one worker are CPU times, so that neighbours on a shared machine cost it little; medians of all pairs.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bare_instruction.h"
#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"
#include "synthetic_heads.h"

namespace minference::bench {
namespace {

using kernels::AttentionKernel;
using sparse::IndexForm;

constexpr std::int64_t kQueryHeads = 4;  // of one KV head

struct Options {
  std::string output;
  int pairs = 21;
  std::vector<std::string> lengths = {"8192", "16384"};
  std::vector<std::string> kernels;  // empty: all
  int workers = 2;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::runtime_error(name + " needs a value");
    const std::string value = argv[i + 1];
    if (name == "--output")
      options.output = value;
    else if (name == "--pairs")
      options.pairs = std::stoi(value);
    else if (name == "--lengths")
      options.lengths = split(value);
    else if (name == "--kernels")
      options.kernels = split(value);
    else if (name == "--workers")
      options.workers = std::stoi(value);
    else
      throw std::runtime_error("unknown option " + name);
  }
  return options;
}

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A KV head and its query heads, as a language model's look.
struct Heads {
  std::int64_t length, head_dim;
  SyntheticHeads inputs;
  base::AlignedBuffer<std::uint16_t> out;  // as hosts' tensors are

  Heads(std::int64_t n, std::int64_t dim)
      : length(n),
        head_dim(dim),
        inputs(make_synthetic_heads(n, 1, dim, 1, {"local", "slash", "mixed", "broad"}, n)),
        out(inputs.query.size()) {}

  kernels::AttentionCall call(const sparse::SparseIndex& index) {
    const auto view = [&](const std::vector<std::uint16_t>& x, std::int64_t heads) {
      return base::InputHeads{x.data(), base::DType::bf16, heads,   length,
                              head_dim, length * head_dim, head_dim};
    };
    kernels::AttentionCall c;
    c.query = view(inputs.query, kQueryHeads);
    c.key = view(inputs.key, 1);
    c.value = view(inputs.value, 1);
    c.out = {out.data(), base::DType::bf16, kQueryHeads, length, head_dim, length * head_dim, head_dim};
    c.softmax_scale = 1 / std::sqrt(static_cast<float>(head_dim));
    c.index = &index;
    return c;
  }
};

enum class Pattern { dense, tiles, columns, diagonal };

const char* name_of(Pattern pattern) {
  switch (pattern) {
    case Pattern::dense:
      return "dense";
    case Pattern::tiles:
      return "tiles 10 %";
    case Pattern::columns:
      return "1000 columns + diagonal";
    default:
      return "diagonal";
  }
}

sparse::HeadIndex head_index(Pattern pattern, std::int64_t length, std::mt19937& random) {
  sparse::HeadIndex head;
  if (pattern == Pattern::dense) return head;
  head.form = IndexForm::relative;
  head.tiles = {0};
  if (pattern == Pattern::tiles) {
    // One tile in eleven (with the diagonal, 10 % of the pairs), at any key.
    for (std::int64_t slot = 2; slot + 11 < length / 64; slot += 11) {
      const auto start =
          -64 * static_cast<std::int64_t>(slot + random() % 10) + static_cast<std::int64_t>(random() % 64);
      head.tiles.push_back(static_cast<std::int32_t>(start));
    }
  }
  if (pattern == Pattern::columns) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(length));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    std::sample(all.begin(), all.end(), std::back_inserter(head.columns), 1000, random);
  }
  return head;
}

sparse::SparseIndex make_index(Pattern pattern, std::int64_t length) {
  std::mt19937 random(2);
  sparse::SparseIndex index{.q_len = length, .kv_len = length, .causal = true, .heads = {}};
  for (std::int64_t h = 0; h < kQueryHeads; ++h) index.heads.push_back(head_index(pattern, length, random));
  return index;
}

struct Timing {
  double seconds, bare_flops, share;
};

Timing time_pairs(const AttentionKernel& kernel, const kernels::AttentionCall& call, double flops,
                  int pairs) {
  const BareInstruction* bare = bare_instruction_of(kernel.name);
  const auto executor = base::make_thread_pool(1);
  const auto bare_rate = [&] {
    constexpr long kIterations = 200000;
    if (!bare) return 0.0;
    const double start = cpu_seconds();
    bare->run(kIterations);
    return kIterations * bare->flops_an_iteration / (cpu_seconds() - start);
  };
  std::vector<double> seconds, bare_rates, shares;
  kernel.run(call, *executor);
  for (int i = 0; i < pairs; ++i) {
    const double before = bare_rate();
    const double start = cpu_seconds();
    kernel.run(call, *executor);
    seconds.push_back(cpu_seconds() - start);
    bare_rates.push_back((before + bare_rate()) / 2);
    shares.push_back(bare ? flops / seconds.back() / bare_rates.back() : 0);
  }
  return {median(seconds), median(bare_rates), median(shares)};
}

// Wall time of one worker over that of several, interleaved.
double speedup(const AttentionKernel& kernel, const kernels::AttentionCall& call, int workers, int pairs) {
  const auto one = base::make_thread_pool(1), several = base::make_thread_pool(workers);
  std::vector<double> ratios;
  for (int i = 0; i < pairs; ++i) {
    const double start = wall_seconds();
    kernel.run(call, *one);
    const double middle = wall_seconds();
    kernel.run(call, *several);
    ratios.push_back((middle - start) / (wall_seconds() - middle));
  }
  return median(ratios);
}

// The kernel table's cost constants, in units of a dense call's tile.
nlohmann::json measure_costs(const AttentionKernel& kernel, std::int64_t length, std::int64_t head_dim,
                             int pairs) {
  Heads heads(length, head_dim);
  const auto seconds_of = [&](const sparse::SparseIndex& index) {
    return time_pairs(kernel, heads.call(index), 1, pairs).seconds;
  };
  const auto total = [&](const sparse::SparseIndex& index, std::int64_t sparse::HeadWork::*field) {
    std::int64_t sum = 0;
    for (std::int64_t h = 0; h < kQueryHeads; ++h) sum += sparse::work_of(index, h).*field;
    return static_cast<double>(sum);
  };
  const sparse::SparseIndex dense = make_index(Pattern::dense, length),
                            diagonal = make_index(Pattern::diagonal, length),
                            tiles = make_index(Pattern::tiles, length),
                            columns = make_index(Pattern::columns, length);
  const double tile = seconds_of(dense) / total(dense, &sparse::HeadWork::tiles);
  const double slices = total(diagonal, &sparse::HeadWork::row_slices);
  const double diagonal_seconds = seconds_of(diagonal);
  const double column = (seconds_of(columns) - diagonal_seconds) / total(columns, &sparse::HeadWork::columns);
  const double added_tiles =
      total(tiles, &sparse::HeadWork::tiles) - total(diagonal, &sparse::HeadWork::tiles);
  const double added_runs = total(tiles, &sparse::HeadWork::runs) - total(diagonal, &sparse::HeadWork::runs);
  const double run = (seconds_of(tiles) - diagonal_seconds - added_tiles * tile) / added_runs;
  return {{"kernel", kernel.name},
          {"length", length},
          {"head_dim", head_dim},
          {"microseconds_of_tile", tile * 1e6},
          {"cost_of_run", run / tile},
          {"cost_of_column", column / tile},
          {"cost_of_slice", diagonal_seconds / slices / tile - 1}};
}

// As the result files of the Python benchmarks have them.
std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
  }
  return "unknown";
}

std::string command_of(int argc, char** argv) {
  const std::string program = argv[0];
  std::string command = program.substr(program.rfind('/') + 1);
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  return command;
}

bool wanted(const Options& options, const AttentionKernel& kernel) {
  if (kernel.required > base::choose_isa("") || !kernel.supports(base::DType::bf16, 128)) return false;
  const auto& names = options.kernels;
  return names.empty() || std::find(names.begin(), names.end(), kernel.name) != names.end();
}

nlohmann::json run(const Options& options) {
  nlohmann::json rates = nlohmann::json::array(), costs = nlohmann::json::array();
  std::printf("%-11s %-24s %7s %8s %8s %9s %8s %8s %6s\n", "kernel", "pairs", "length", "head_dim", "density",
              "ms", "TFLOP/s", "bare", "share");
  for (const AttentionKernel& kernel : kernels::attention_kernels()) {
    if (!wanted(options, kernel)) continue;
    for (const std::string& length_text : options.lengths) {
      const std::int64_t length = std::stoll(length_text);
      for (const std::int64_t head_dim : {128, 64}) {
        Heads heads(length, head_dim);
        for (const Pattern pattern : {Pattern::dense, Pattern::tiles, Pattern::columns}) {
          const sparse::SparseIndex index = make_index(pattern, length);
          double pairs = 0;
          for (std::int64_t h = 0; h < kQueryHeads; ++h)
            pairs += static_cast<double>(sparse::count_pairs(index, h));
          const double flops = 4 * static_cast<double>(head_dim) * pairs;
          const double density =
              pairs / kQueryHeads / static_cast<double>(sparse::count_all_pairs(length, length, true));
          const Timing t = time_pairs(kernel, heads.call(index), flops, options.pairs);
          nlohmann::json row = {{"kernel", kernel.name},       {"dtype", "bfloat16"},
                                {"pattern", name_of(pattern)}, {"length", length},
                                {"head_dim", head_dim},        {"density", density},
                                {"seconds", t.seconds},        {"rate", flops / t.seconds},
                                {"bare_rate", t.bare_flops},   {"share", t.share}};
          // No bare loop, no share: a 0 would look measured.
          if (t.bare_flops == 0) row["bare_rate"] = row["share"] = nullptr;
          std::printf("%-11s %-24s %7ld %8ld %8.3f %9.2f %8.4f %8.4f %6.3f", kernel.name, name_of(pattern),
                      length, head_dim, density, t.seconds * 1e3, flops / t.seconds / 1e12,
                      t.bare_flops / 1e12, t.share);
          if (options.workers > 1 && pattern == Pattern::dense) {
            const double ratio = speedup(kernel, heads.call(index), options.workers, options.pairs);
            row["workers"] = options.workers;
            row["speedup"] = ratio;
            std::printf("  %d workers: %.2fx", options.workers, ratio);
          }
          std::printf("\n");
          std::fflush(stdout);
          rates.push_back(row);
        }
      }
    }
    for (const std::int64_t head_dim : {128, 64}) {
      costs.push_back(measure_costs(kernel, 4096, head_dim, options.pairs));
      std::printf(
          "%-11s head_dim %ld: tile %.2f us, cost_of_column %.5f, cost_of_run %.3f, cost_of_slice %.3f\n",
          kernel.name, head_dim, costs.back()["microseconds_of_tile"].get<double>(),
          costs.back()["cost_of_column"].get<double>(), costs.back()["cost_of_run"].get<double>(),
          costs.back()["cost_of_slice"].get<double>());
    }
  }
  return {
      {"interleaved_pairs", options.pairs}, {"query_heads", kQueryHeads}, {"rates", rates}, {"costs", costs}};
}

}  // namespace
}  // namespace minference::bench

int main(int argc, char** argv) {
  try {
    const auto options = minference::bench::parse(argc, argv);
    nlohmann::json results = minference::bench::run(options);
    results["machine"] = {{"cpu", minference::bench::cpu_name()}};
    results["command"] = minference::bench::command_of(argc, argv);
    if (!options.output.empty() && !(std::ofstream(options.output) << results.dump(2) << '\n')) {
      throw std::runtime_error("cannot write " + options.output);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_attention_cpu: %s\n", error.what());
    return 1;
  }
  return 0;
}
