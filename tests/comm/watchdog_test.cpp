#include "tessera/comm/watchdog.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <atomic>
#include <future>
#include <thread>

#include "tessera/comm/mpi.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

using std::chrono::duration;

class WatchdogTest : public testing::Test {
 protected:
  int last() const { return env_.size() - 1; }
  MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<Communicator> comm_ = make_mpi(env_);
};

TEST_F(WatchdogTest, ReportsWhoWaitsForWhom) {
  if (env_.size() < 2) return;  // nobody to wait for
  std::promise<std::string> said;
  std::atomic<bool> spoken{false};
  Watchdog dog(env_, {duration<double>(0.2), duration<double>(2)}, [&](const std::string& report) {
    if (!spoken.exchange(true)) said.set_value(report);
  });
  comm_->barrier();
  float x = 1;
  constexpr int kGo = 99;
  if (env_.rank() == last()) {
    dog.set_phase("loading data");
    MPI_Recv(nullptr, 0, MPI_BYTE, 0, kGo, MPI_COMM_WORLD, MPI_STATUS_IGNORE);  // comes after the report
    comm_->all_reduce({&x, 1, DType::f32});
  } else {
    dog.set_phase("forward");
    Pending reduce = comm_->start_all_reduce({&x, 1, DType::f32}, ReduceOp::sum);
    if (env_.rank() == 0) {
      const std::string report = said.get_future().get();
      EXPECT_EQ(report.find("watchdog: rank 0 has waited 0."), 0U) << report;
      EXPECT_NE(report.find("for world: all_reduce of 1 f32 (sum), sequence 1\n"), std::string::npos) << report;
      for (int r = 0; r < last(); ++r) {
        const std::string line = "\n  rank " + std::to_string(r) + ": in 'forward' for ";
        const auto at = report.find(line);
        ASSERT_NE(at, std::string::npos) << report;
        const std::string rest = report.substr(at + 1, report.find('\n', at + 1) - at - 1);
        EXPECT_NE(rest.find("waits 0."), std::string::npos) << rest;
        EXPECT_NE(rest.find("; finished world: barrier, sequence 0, "), std::string::npos) << rest;
      }
      const auto at = report.find("\n  rank " + std::to_string(last()) + ": in 'loading data' for ");
      ASSERT_NE(at, std::string::npos) << report;
      EXPECT_NE(report.find("nothing unfinished; finished world: barrier", at), std::string::npos) << report;
      MPI_Send(nullptr, 0, MPI_BYTE, last(), kGo, MPI_COMM_WORLD);
    }
    reduce.wait();
  }
  EXPECT_EQ(x, static_cast<float>(env_.size()));
  comm_->barrier();  // no watchdog leaves while another may still ask it
}

TEST_F(WatchdogTest, StaysSilentWhileWorkGoesOn) {
  std::atomic<int> spoken{0};
  Watchdog dog(env_, {duration<double>(5), duration<double>(1)}, [&](const std::string&) { ++spoken; });
  float x = 1;
  for (int i = 0; i < 200; ++i) comm_->all_reduce({&x, 1, DType::f32}, ReduceOp::max);
  comm_->barrier();
  EXPECT_EQ(spoken.load(), 0);
}

TEST_F(WatchdogTest, RestsWhilePausedAndStartsAnewAfterwards) {
  if (env_.size() < 2) return;
  std::atomic<int> spoken{0};
  std::promise<void> said;
  Watchdog dog(env_, {duration<double>(0.1), duration<double>(0.5)}, [&](const std::string&) {
    if (spoken++ == 0) said.set_value();
  });
  comm_->barrier();
  float x = 1;
  constexpr int kGo = 98;
  if (env_.rank() == 0) {
    Pending reduce = comm_->start_all_reduce({&x, 1, DType::f32}, ReduceOp::sum);
    {
      const Watchdog::Pause pause(dog);
      const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(400);
      while (std::chrono::steady_clock::now() < end) comm_->progress();
      EXPECT_EQ(spoken.load(), 0);
    }
    said.get_future().get();  // the limit runs again
    for (int r = 1; r < env_.size(); ++r) MPI_Send(nullptr, 0, MPI_BYTE, r, kGo, MPI_COMM_WORLD);
    reduce.wait();
  } else {
    MPI_Recv(nullptr, 0, MPI_BYTE, 0, kGo, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    comm_->all_reduce({&x, 1, DType::f32});
  }
  comm_->barrier();
}

TEST_F(WatchdogTest, RefusesLimitsThatAreNotPositive) {
  EXPECT_THROW(Watchdog(env_, {duration<double>(0), duration<double>(1)}, [](const std::string&) {}), RunError);
  EXPECT_THROW(Watchdog(env_, {duration<double>(1), duration<double>(-1)}, [](const std::string&) {}), RunError);
}

}  // namespace
}  // namespace tessera::comm
