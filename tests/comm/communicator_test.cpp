// What Communicator and Pending promise whatever the transport, on a transport that only takes notes. What transports
// must do is conformance.hpp.
#include "tessera/comm/communicator.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "tessera/comm/flight.hpp"
#include "tessera/comm/schedule_check.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

struct Notes {
  int waits = 0;
  int tests = 0;
  bool fail = false;
  std::vector<std::string> calls;
};

class NotedState final : public Pending::State {
 public:
  explicit NotedState(Notes& notes) : notes_(notes) {}
  void wait() override {
    ++notes_.waits;
    if (notes_.fail) throw CommError("lost a rank");
  }
  bool test() override { return ++notes_.tests >= 2; }

 private:
  Notes& notes_;
};

class NotedCommunicator final : public Communicator {
 public:
  NotedCommunicator(Notes& notes, int rank, int size)
      : Communicator("noted", std::make_shared<FlightRing>()), notes_(notes), rank_(rank), size_(size) {}
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view transport() const noexcept override { return "noted"; }
  void close() override {}

 protected:
  StatePtr do_all_gather(ConstBuffer, Buffer, Ticket ticket) override { return note(ticket); }
  StatePtr do_reduce_scatter(ConstBuffer, Buffer, ReduceOp, Ticket ticket) override { return note(ticket); }
  StatePtr do_reduce_scatter_add(ConstBuffer, Buffer, Ticket ticket) override { return note(ticket); }
  StatePtr do_all_reduce(Buffer, ReduceOp, Ticket ticket) override { return note(ticket); }
  StatePtr do_broadcast(Buffer, int, Ticket ticket) override { return note(ticket); }
  void do_barrier(Ticket ticket) override { note(ticket); }
  std::unique_ptr<Communicator> do_split(int, int, std::string_view, Ticket) override { return nullptr; }

 private:
  StatePtr note(Ticket& ticket) {
    notes_.calls.push_back(ticket.what());
    ticket.finish();
    return std::make_unique<NotedState>(notes_);
  }
  Notes& notes_;
  int rank_;
  int size_;
};

class CommunicatorTest : public testing::Test {
 protected:
  Notes notes_;
  NotedCommunicator comm_{notes_, 1, 4};
  float data_[16] = {};
  Pending start() { return comm_.start_all_reduce({data_, 16, DType::f32}, ReduceOp::sum); }
};

TEST_F(CommunicatorTest, PendingWaitsOnce) {
  Pending pending = start();
  EXPECT_TRUE(pending.pending());
  pending.wait();
  pending.wait();
  EXPECT_FALSE(pending.pending());
  EXPECT_TRUE(pending.test());
  EXPECT_EQ(notes_.waits, 1);
}

TEST_F(CommunicatorTest, PendingThatTestedTrueIsOver) {
  Pending pending = start();
  EXPECT_FALSE(pending.test());
  EXPECT_TRUE(pending.test());
  pending.wait();
  EXPECT_EQ(notes_.waits, 0);
}

TEST_F(CommunicatorTest, DroppedPendingWaitsAndKeepsItsErrorToItself) {
  notes_.fail = true;
  { const Pending dropped = start(); }
  EXPECT_EQ(notes_.waits, 1);
}

TEST_F(CommunicatorTest, PendingDroppedByAnExceptionDoesNotWait) {
  try {
    const Pending abandoned = start();
    throw std::runtime_error("something else");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(notes_.waits, 0);
}

TEST_F(CommunicatorTest, MovedPendingWaitsInItsNewPlace) {
  Pending first = start();
  Pending second = std::move(first);
  EXPECT_FALSE(first.pending());  // NOLINT(bugprone-use-after-move)
  first = start();
  first = std::move(second);  // completes what first held
  EXPECT_EQ(notes_.waits, 1);
}

TEST_F(CommunicatorTest, CallsAreNumberedAndDescribed) {
  start().wait();
  comm_.barrier();
  comm_.broadcast({data_, 3, DType::f16}, 2);
  EXPECT_EQ(notes_.calls,
            (std::vector<std::string>{"noted: all_reduce of 16 f32 (sum), sequence 0", "noted: barrier, sequence 1",
                                      "noted: broadcast of 3 f16 from rank 2, sequence 2"}));
}

TEST_F(CommunicatorTest, CountsStayExactAboveTwoToThe31) {
  const std::int64_t n = (std::int64_t{1} << 33) + 3;  // the transport here reads nothing, the addresses are never used
  auto* far = reinterpret_cast<void*>(std::uintptr_t{1} << 40);
  comm_.all_gather({data_, n, DType::f32}, {far, 4 * n, DType::f32});
  EXPECT_EQ(comm_.counters().at("all_gather").sent, 3 * n * 4);
  comm_.all_reduce({data_, n, DType::bf16});
  EXPECT_EQ(comm_.counters().at("all_reduce").sent, 2 * 3 * n * 2 / 4);
  comm_.reset_counters();
  EXPECT_TRUE(comm_.counters().empty());
}

TEST_F(CommunicatorTest, RefusalNamesRankCallAndReason) {
  try {
    comm_.all_gather({data_, 4, DType::f32}, {data_, 15, DType::f32});
    FAIL() << "15 elements for 4 ranks of 4";
  } catch (const RunError& error) {
    EXPECT_STREQ(error.what(),
                 "comm: rank 1/4: noted: all_gather of 15 f32: full holds 15 elements, 4 ranks of 4 need 16");
  }
  EXPECT_TRUE(notes_.calls.empty());
  EXPECT_TRUE(comm_.counters().empty());
}

TEST(Types, SizesAndNames) {
  EXPECT_EQ(size_of(DType::f64), 8U);
  EXPECT_EQ(size_of(DType::i64), 8U);
  EXPECT_EQ(size_of(DType::f32), 4U);
  EXPECT_EQ(size_of(DType::bf16), 2U);
  EXPECT_EQ(size_of(DType::f16), 2U);
  EXPECT_EQ(size_of(DType::bytes), 1U);
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(describe(Call{Operation::reduce_scatter, 8, DType::f64, ReduceOp::min}), "reduce_scatter of 8 f64 (min)");
}

}  // namespace
}  // namespace tessera::comm
