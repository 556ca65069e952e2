#include "tessera/core/log.hpp"

#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

/// What a log with these settings writes to stderr when every level is used once.
std::string said(const Log& log) {
  testing::internal::CaptureStderr();
  log.debug("d{}", 1);
  log.info("i{}", 2);
  log.warn("w{}", 3);
  log.write(Level::error, "e4");
  return testing::internal::GetCapturedStderr();
}

TEST(Log, SpeaksInfoWarningsAndErrorsOnRankZero) {
  EXPECT_EQ(said(Log(0, 4)), "i2\nwarning: w3\nerror: e4\n");
}

TEST(Log, SpeaksOnlyWarningsAndErrorsOnOtherRanksAndNamesThem) {
  EXPECT_EQ(said(Log(2, 4)), "[rank 2/4] warning: w3\n[rank 2/4] error: e4\n");
}

TEST(Log, AddsDebugLinesWhenVerbose) {
  EXPECT_EQ(said(Log(0, 1, true)), "d1\ni2\nwarning: w3\nerror: e4\n");
  EXPECT_EQ(said(Log(1, 2, true)), "[rank 1/2] warning: w3\n[rank 1/2] error: e4\n");
}

TEST(Log, DropsInfoWhenQuiet) {
  EXPECT_EQ(said(Log(0, 1, false, true)), "warning: w3\nerror: e4\n");
}

TEST(Log, SaysNothingByDefault) {
  EXPECT_EQ(said(Log()), "");
}

TEST(Log, TakesBracesAndPercentSignsInTextAsText) {
  const Log log(0, 1);
  testing::internal::CaptureStderr();
  log.write(Level::info, "50 % of {x} %v");
  log.write(Level::warn, "{}");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "50 % of {x} %v\nwarning: {}\n");
}

}  // namespace
}  // namespace tessera
