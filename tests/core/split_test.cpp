#include "tessera/core/split.hpp"

#include <gtest/gtest.h>

namespace tessera {
namespace {

using Views = std::vector<std::string_view>;
using Names = std::vector<std::string>;

TEST(Split, CutsAtEveryOccurrence) {
  EXPECT_EQ(split("a||b||c", "||"), (Views{"a", "b", "c"}));
  EXPECT_EQ(split("a|||b", "||"), (Views{"a", "|b"}));
  EXPECT_EQ(split("a,b", "||"), (Views{"a,b"}));
}

TEST(Split, KeepsEmptyParts) {
  EXPECT_EQ(split("", ","), (Views{""}));
  EXPECT_EQ(split(",a,,b,", ","), (Views{"", "a", "", "b", ""}));
}

TEST(SplitNames, LeavesThemOut) {
  EXPECT_EQ(split_names(",a,,b,", ","), (Names{"a", "b"}));
  EXPECT_EQ(split_names("", ","), Names());
  EXPECT_EQ(split_names("one", ","), Names{"one"});
}

}  // namespace
}  // namespace tessera
