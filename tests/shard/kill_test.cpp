// Whatever moment a job is killed at, one rank or all, there is a whole checkpoint, and it loads.
// TESSERA_KILLS says how often; the delays are drawn from a fixed seed, the moments they meet are the machine's.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "support/support.hpp"

namespace {

namespace fs = std::filesystem;
using tessera::testing_support::run;
using tessera::testing_support::RunResult;
using tessera::testing_support::TempDir;

RunResult job(int ranks, const fs::path& folder, const std::string& what) {
  return run("OMPI_MCA_mpi_yield_when_idle=1 timeout 120 " TESSERA_MPIEXEC " -n " + std::to_string(ranks) +
             " --oversubscribe --allow-run-as-root --bind-to none " TESSERA_KILL_PROGRAM " " + folder.string() + " " +
             what + " </dev/null");
}

pid_t pid_of(const fs::path& folder, int rank) {
  std::ifstream in(folder / ("pid-" + std::to_string(rank)));
  std::string line;
  return std::getline(in, line) && !in.eof() ? static_cast<pid_t>(std::stol(line)) : 0;
}

// The newest save that the program knew to be in place; 0 for none.
long last_saved(const fs::path& folder) {
  std::ifstream in(folder / "saved");
  long last = 0;
  for (std::string line; std::getline(in, line) && !in.eof();) last = std::stol(line);
  return last;
}

template <class Condition>
bool wait_for(Condition condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(Kill, AtAnyMomentLeavesAWholeCheckpointThatLoads) {
  const char* wanted = std::getenv("TESSERA_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 5;
  const TempDir dir;
  std::mt19937 random(20251);
  for (int i = 0; i < kills; ++i) {
    const int ranks = 1 + i % 3;
    const bool only_one = i % 2 == 1;
    for (int r = 0; r < 3; ++r) fs::remove(dir.path() / ("pid-" + std::to_string(r)));
    RunResult ended;
    std::thread runs([&] { ended = job(ranks, dir.path(), "run"); });
    const bool started = wait_for([&] {
      for (int r = 0; r < ranks; ++r) {
        if (pid_of(dir.path(), r) == 0) return false;
      }
      return last_saved(dir.path()) > 0;  // in the first round, once there is one; later there always is
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300'000));
    const auto only = static_cast<int>(random() % static_cast<unsigned>(ranks));
    for (int r = 0; started && r < ranks; ++r) {
      if (!only_one || r == only) ::kill(pid_of(dir.path(), r), SIGKILL);
    }
    runs.join();
    ASSERT_TRUE(started) << ended.output;
    ASSERT_NE(ended.status, 0) << "kill " << i << ": the program ended by itself\n" << ended.output;

    const auto known = last_saved(dir.path());
    const auto check = job(1 + (i + 1) % 3, dir.path(), "check");
    ASSERT_EQ(check.status, 0) << "after kill " << i << ": " << check.output;
    const auto newest = [&](const std::string& place) {
      const auto at = check.output.find(place + " ");
      return at == std::string::npos ? -1L : std::stol(check.output.substr(at + place.size() + 1));
    };
    EXPECT_GE(newest("checkpoints"), known) << "after kill " << i << ": " << check.output;
    EXPECT_GE(newest("best"), known) << "after kill " << i << ": " << check.output;
  }
}

}  // namespace
