#include "tessera/core/clock.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace tessera {
namespace {

TEST(Stopwatch, NeverRunsBackwards) {
  Stopwatch watch;
  const double first = watch.seconds();
  EXPECT_GE(first, 0);
  EXPECT_GE(watch.seconds(), first);
  EXPECT_GE(watch.restart(), first);
}

TEST(DurationText, GrowsWithTheDuration) {
  EXPECT_EQ(duration_text(0), "0:00");
  EXPECT_EQ(duration_text(6.6), "0:07");
  EXPECT_EQ(duration_text(59.6), "1:00");
  EXPECT_EQ(duration_text(754), "12:34");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(2 * 86400 + 3 * 3600 + 245), "2d 03:04:05");
  EXPECT_EQ(duration_text(-1), "?");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
}

TEST(BytesText, PicksTheUnit) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_text(25125558681), "23.4 GiB");
  EXPECT_EQ(bytes_text(std::numeric_limits<std::int64_t>::max()), "8.0 EiB");
}

TEST(UtcText, WritesIso8601) {
  EXPECT_EQ(utc_text(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(utc_text(1769903999), "2026-01-31T23:59:59Z");
  EXPECT_EQ(utc_now().size(), 20U);
}

}  // namespace
}  // namespace tessera
