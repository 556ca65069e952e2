// How a job ends when one of its ranks does not: by an error on all of them, within a bound.
#include <gtest/gtest.h>

#include <chrono>

#include "support/support.hpp"

namespace {

using tessera::testing_support::run;
using tessera::testing_support::RunResult;

constexpr double kBoundS = 20;  // on a machine busy with other tests; a second or two when alone

RunResult job(int ranks, const std::string& how) {
  const auto begin = std::chrono::steady_clock::now();
  const RunResult result = run("timeout 60 " TESSERA_MPIEXEC " -n " + std::to_string(ranks) +
                               " --oversubscribe --allow-run-as-root --bind-to none " TESSERA_FAULT_PROGRAM " " + how);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), kBoundS);
  return result;
}

TEST(CommFault, AHealthyJobEndsWithStatusZero) {
  const RunResult result = job(3, "healthy");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("rank 2 of 3 done"), std::string::npos) << result.output;
}

TEST(CommFault, AProgramStartedWithoutMpirunIsOneRank) {
  const RunResult result = run("timeout 60 " TESSERA_FAULT_PROGRAM " healthy");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("rank 0 of 1 done"), std::string::npos) << result.output;
}

TEST(CommFault, AKilledRankEndsTheJob) {
  const RunResult result = job(3, "killed");
  EXPECT_NE(result.status, 0);
  EXPECT_EQ(result.output.find("done"), std::string::npos) << result.output;
}

TEST(CommFault, AThrowingRankEndsTheJobWithItsStatus) {
  const RunResult result = job(3, "throws");
  EXPECT_EQ(result.status, 7) << result.output;
  EXPECT_NE(result.output.find("[rank 2/3] fatal: disk full"), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("done"), std::string::npos) << result.output;
}

TEST(CommFault, AStoppedRankIsNamedByTheWatchdog) {
  const RunResult result = job(3, "stopped");
  EXPECT_EQ(result.status, 5) << result.output;
  EXPECT_NE(result.output.find("watchdog: rank "), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("rank 2: does not answer"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("world: all_gather of 99999 f32, sequence 9, started"), std::string::npos)
      << result.output;
  EXPECT_NE(result.output.find("running"), std::string::npos) << result.output;
}

}  // namespace
