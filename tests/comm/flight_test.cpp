#include "tessera/comm/flight.hpp"

#include <gtest/gtest.h>

#include <sstream>

#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

const Call kGather{Operation::all_gather, 64, DType::bf16};

TEST(FlightRing, KeepsTheLastEntriesInOrder) {
  FlightRing ring(4);
  for (int i = 0; i < 10; ++i) ring.finish(ring.start(kGather, "world", i));
  const auto entries = ring.entries();
  ASSERT_EQ(entries.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(entries[i].sequence, static_cast<std::int64_t>(6 + i));
  EXPECT_EQ(ring.last_finished()->sequence, 9);
}

TEST(FlightRing, RemembersTheOldestRunningEvenWhenItFellOut) {
  FlightRing ring(2);
  const auto stuck = ring.start(kGather, "reduce", 0);
  for (int i = 1; i < 6; ++i) ring.finish(ring.start(kGather, "gather", i));
  ASSERT_TRUE(ring.oldest_running().has_value());
  EXPECT_EQ(ring.oldest_running()->id, stuck);
  ring.finish(stuck);
  ring.finish(stuck);  // twice is harmless
  EXPECT_FALSE(ring.oldest_running().has_value());
}

TEST(FlightRing, DumpNamesWhatRunsAndWhatFinished) {
  FlightRing ring;
  ring.finish(ring.start(kGather, "world", 0));
  ring.start({Operation::broadcast, 3, DType::i64, ReduceOp::sum, 1}, "a name longer than it keeps", 1);
  std::ostringstream out;
  ring.dump(out);
  EXPECT_NE(out.str().find("world: all_gather of 64 bf16, sequence 0, started"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("a name longer t: broadcast of 3 i64 from rank 1, sequence 1"), std::string::npos)
      << out.str();
  EXPECT_NE(out.str().find("running"), std::string::npos);
  std::ostringstream last;
  ring.dump(last, 1);
  EXPECT_EQ(last.str().find("all_gather"), std::string::npos) << last.str();
  EXPECT_NE(last.str().find("broadcast"), std::string::npos) << last.str();
}

TEST(FlightRing, RefusesNoRoom) {
  EXPECT_THROW(FlightRing(0), RunError);
}

}  // namespace
}  // namespace tessera::comm
