#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "base/isa.h"

// Runs the tests, or exits with 77 (skipped) when MINFERENCE_ISA forces an instruction set that this machine
// lacks.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (const char* forced = std::getenv("MINFERENCE_ISA")) {
    const auto isa = minference::base::isa_named(forced);
    if (isa && *isa > minference::base::available_isa()) {
      std::printf("skipped: this machine has no %s\n", forced);
      return 77;
    }
  }
  return RUN_ALL_TESTS();
}
