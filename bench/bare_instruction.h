#pragma once

#include <string_view>

namespace minference::bench {

// The multiply instruction that an attention kernel is built on, alone: enough accumulators to hide its latency,
// operands in registers. What the kernel could reach if all else were free.
struct BareInstruction {
  const char* name;
  double flops_an_iteration;
  void (*run)(long iterations);
};

// Of a row of attention_kernels(), by name; nullptr for one that has no such instruction. Runs only where the
// kernel does.
const BareInstruction* bare_instruction_of(std::string_view kernel);

}  // namespace minference::bench
