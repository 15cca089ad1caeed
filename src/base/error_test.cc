#include "base/error.h"

#include <gtest/gtest.h>

#include <locale>

namespace minference::base {
namespace {

// Digits in groups of three, as many a language's locale has them.
class Groups : public std::numpunct<char> {
  char do_thousands_sep() const override { return ','; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(Refuse, WritesNumbersTheSameInEveryLocale) {
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Groups));
  std::string message;
  try {
    refuse("num_heads", "must be 1", 1234567);
  } catch (const Error& error) {
    message = error.what();
  }
  std::locale::global(before);
  EXPECT_EQ(message, "num_heads must be 1, got 1234567");
}

}  // namespace
}  // namespace minference::base
