#include "shard/schedule.hpp"

#include <gtest/gtest.h>

namespace tessera::shard {
namespace {

// Units 0..3 with one group each, of 10, 20, 30, 40 bytes; a pass runs them forth and back.
struct ScheduleTest : testing::Test {
  GroupUse use{{{0}, {1}, {2}, {3}}, {10, 20, 30, 40}};
  Schedule recorded(int prefetch, std::int64_t keep) const {
    Schedule s(use, prefetch, keep);
    for (const int u : {0, 1, 2, 3, 3, 2, 1, 0}) s.note(u);
    s.close();
    return s;
  }
};
using Ids = std::vector<int>;

TEST_F(ScheduleTest, NothingIsAheadWhileRecording) {
  Schedule s(use, 2, 0);
  s.note(0);
  EXPECT_TRUE(s.ahead(1).empty());
  EXPECT_EQ(s.surplus(1, {0}), Ids{0});
}

TEST_F(ScheduleTest, TheNextCallsAreGatheredAhead) {
  EXPECT_EQ(recorded(1, 0).ahead(1), Ids{1});
  EXPECT_EQ(recorded(2, 0).ahead(2), (Ids{2, 3}));
  EXPECT_EQ(recorded(3, 0).ahead(3), (Ids{3, 2}));  // twice in a row counts as two calls, and once here
  EXPECT_TRUE(recorded(0, 0).ahead(1).empty());
  EXPECT_TRUE(recorded(2, 0).ahead(8).empty());  // never beyond the pass: trained weights change there
}

TEST_F(ScheduleTest, TheLastOfForwardStaysForBackward) {
  EXPECT_TRUE(recorded(0, 0).surplus(4, {3}).empty());
  EXPECT_EQ(recorded(0, 0).surplus(4, {2, 3}), Ids{2});
}

TEST_F(ScheduleTest, WhatIsUsedAgainSoonestStaysWithinTheBytes) {
  // After forward of unit 2 (position 3): 3 comes next; 2, then 1, then 0 are used again in that order.
  EXPECT_EQ(recorded(0, 30).surplus(3, {0, 1, 2}), (Ids{1, 0}));
  EXPECT_EQ(recorded(0, 50).surplus(3, {0, 1, 2}), Ids{0});
  EXPECT_TRUE(recorded(0, 60).surplus(3, {0, 1, 2}).empty());
  // At the end of a pass the next one begins with unit 0.
  EXPECT_EQ(recorded(0, 10).surplus(8, {0, 1, 3}), (Ids{1, 3}));
}

TEST_F(ScheduleTest, ABorrowedGroupCountsForBothUnits) {
  use.of_unit[3] = {3, 0};
  EXPECT_EQ(recorded(1, 0).ahead(3), (Ids{3, 0}));
}

}  // namespace
}  // namespace tessera::shard
