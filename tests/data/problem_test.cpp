#include "tessera/data/problem.hpp"

#include <gtest/gtest.h>

namespace tessera::data {
namespace {

TEST(Problem, SaysFilePlaceAndReasonAndLeavesOutAnEmptyPlace) {
  EXPECT_EQ((Problem{"a.json", "shapes[2]", "no points"}).text(), "a.json: shapes[2]: no points");
  EXPECT_EQ((Problem{"a.jpg", "", "truncated"}).text(), "a.jpg: truncated");
}

TEST(Problem, ABrokenSampleIsARequestErrorThatKeepsItsProblem) {
  const Problem problem{"a {strange} name.json", "text", "empty"};  // braces are text, not a format
  try {
    throw BrokenSample(problem);
  } catch (const RequestError& error) {
    EXPECT_EQ(error.what(), problem.text());
    EXPECT_EQ(error.status(), ExitStatus::bad_request);
    EXPECT_EQ(dynamic_cast<const BrokenSample&>(error).problem(), problem);
  }
}

}  // namespace
}  // namespace tessera::data
