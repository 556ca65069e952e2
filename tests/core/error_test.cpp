#include "tessera/core/error.hpp"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Error, CarriesTheExitStatusOfItsKind) {
  EXPECT_EQ(RequestError("x").status(), ExitStatus::bad_request);
  EXPECT_EQ(RunError("x").status(), ExitStatus::failed);
  EXPECT_EQ(CommError("x").status(), ExitStatus::failed);
  EXPECT_EQ(static_cast<int>(ExitStatus::done), 0);
  EXPECT_EQ(static_cast<int>(ExitStatus::failed), 1);
  EXPECT_EQ(static_cast<int>(ExitStatus::bad_request), 2);
  EXPECT_EQ(static_cast<int>(ExitStatus::requeue), 75);
}

TEST(Error, FormatsItsText) {
  EXPECT_STREQ(RequestError("row {}: {} tokens, limit {}", 41, 2049, 2048).what(), "row 41: 2049 tokens, limit 2048");
  EXPECT_STREQ(RunError("{{}} {}", "{x}").what(), "{} {x}");  // braces in a value are text
}

TEST(Error, IsCaughtAsItsBaseWithItsStatus) {
  try {
    throw CommError("rank {}", 3);
  } catch (const RunError& error) {
    EXPECT_STREQ(error.what(), "rank 3");
    EXPECT_EQ(error.status(), ExitStatus::failed);
  }
}

TEST(Error, IsOfOneRankUntilMarkedOtherwise) {
  RunError error("x");
  EXPECT_FALSE(error.everywhere());
  error.mark_everywhere();
  EXPECT_TRUE(error.everywhere());
}

}  // namespace
}  // namespace tessera
