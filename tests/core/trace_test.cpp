#include "tessera/core/trace.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using std::chrono::microseconds;

TEST(TraceLog, WritesWhatAViewerReads) {
  const auto zero = TraceLog::Clock::now();
  TraceLog a(zero), b(zero);
  a.add(TraceLog::Row::compute, "forward \"model.layers.0\"", zero + microseconds(5), zero + microseconds(12));
  b.add(TraceLog::Row::gather, "model.layers.1", zero + microseconds(6), zero + microseconds(7));
  const auto document = nlohmann::json::parse(TraceLog::document({a.events(0), b.events(1)}));
  std::vector<nlohmann::json> spans;
  int names = 0;
  for (const auto& event : document.at("traceEvents")) {
    if (event.at("ph") == "X") spans.push_back(event);
    names += event.at("ph") == "M" ? 1 : 0;
  }
  EXPECT_EQ(names, 2 * 6);  // a process and five rows for each rank
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[0].at("name"), "forward \"model.layers.0\"");
  EXPECT_EQ(spans[0].at("pid"), 0);
  EXPECT_EQ(spans[0].at("ts"), 5.0);
  EXPECT_EQ(spans[0].at("dur"), 7.0);
  EXPECT_EQ(spans[1].at("pid"), 1);
  EXPECT_NE(spans[1].at("tid"), spans[0].at("tid"));
}

TEST(TraceLog, KeepsTheFirstSpansAndCountsTheRest) {
  TraceLog log(TraceLog::Clock::now(), 3);
  for (int i = 0; i < 5; ++i) log.add(TraceLog::Row::step, "step", TraceLog::Clock::now(), TraceLog::Clock::now());
  EXPECT_EQ(log.size(), 3U);
  EXPECT_EQ(log.dropped(), 2U);
}

}  // namespace
}  // namespace tessera
