#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "abi.h"
#include "base/executor.h"
#include "head_patterns.h"
#include "host.h"
#include "mask.h"

namespace minference::ggml {

// Chunks of fewer rows are left to ggml: the library would compute them densely.
inline constexpr std::int64_t kMinRows = 128;

// Whether an operation is attention that FlashAttention may be given: of `kMinRows` rows or more, unquantised keys
// and values, a mask, and neither ALiBi, soft cap nor sinks. Shapes only: what the mask says is known at run
// time.
bool supports_attention(const Host& host, const Tensor& op);

// One backend's prefill attention: its threads, scratch memory and counts.
class FlashAttention {
 public:
  FlashAttention(const Host& host, HeadPatterns patterns);
  ~FlashAttention();

  void set_num_threads(int num_threads) { num_threads_ = num_threads; }

  // Computes a supported operation. False, with nothing written that lasts, when the mask is not one of a few
  // causal sequences in order: the operation is ggml's then. Throws std::runtime_error.
  bool compute(const Tensor& op);

  // The head patterns, for the log.
  const std::string& description() const { return patterns_.description(); }

  // What was computed since the beginning, for the log; "" when nothing was.
  std::string summary() const;

 private:
  struct DestroyContext {
    void operator()(minference_context* context) const { minference_context_destroy(context); }
  };
  // What a mask was found to say, kept for the layers that follow in the same pass over the model.
  struct ReadMask {
    const void* data;
    std::int64_t num_rows, num_keys, num_streams;
    std::vector<std::vector<RowGroup>> groups;  // of each stream
    bool usable;
  };

  bool compute_with_mask(const Tensor& op);
  void start_threads();
  const ReadMask& read(const Tensor& mask, std::int64_t num_rows, int layer);
  void prefill(const Tensor& op, std::int64_t stream, const RowGroup& group,
               std::span<const minference_head_pattern> heads);
  minference_tensor gathered(const Tensor& tensor, std::int64_t stream, const RowGroup& group,
                             std::vector<std::uint8_t>& memory);

  const Host& host_;
  HeadPatterns patterns_;
  bool warned_ = false;
  int num_threads_ = 1;
  std::unique_ptr<base::Executor> executor_;
  std::unique_ptr<minference_context, DestroyContext> context_;
  int last_layer_ = -1;
  std::vector<ReadMask> masks_;
  std::vector<std::uint16_t> query_, out_;  // in the type of keys
  std::vector<std::uint8_t> key_, value_;   // whose cells lie in several runs
  std::int64_t calls_ = 0, pairs_ = 0, all_pairs_ = 0;
  double seconds_ = 0, seconds_estimate_ = 0, seconds_select_ = 0, seconds_attend_ = 0;
};

}  // namespace minference::ggml
