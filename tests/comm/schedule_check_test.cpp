#include "tessera/comm/schedule_check.hpp"

#include <gtest/gtest.h>

#include "tessera/comm/mpi.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

class ScheduleCheckTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { comm_->set_schedule_check(std::make_unique<ScheduleCheck>(make_mpi(env_), GetParam())); }
  int last() const { return comm_->size() - 1; }
  std::string error_of(const std::function<void()>& calls) {
    try {
      calls();
    } catch (const CommError& error) {
      return error.what();
    }
    return "";
  }
  MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<Communicator> comm_ = make_mpi(env_);
  float data_[4] = {1, 1, 1, 1};
};

TEST_P(ScheduleCheckTest, EqualSchedulesPass) {
  for (int i = 0; i < 10; ++i) {
    comm_->all_reduce({data_, i % 4, DType::f32}, ReduceOp::max);
    comm_->barrier();
  }
}

TEST_P(ScheduleCheckTest, NamesTheFirstDifference) {
  if (comm_->size() == 1) return;                   // one rank cannot differ
  ScheduleCheck check(make_mpi(env_), GetParam());  // alone, so that the calls themselves cannot hang
  const std::string text = error_of([&] {
    for (int i = 0; i < 10; ++i) {
      check.check({Operation::all_reduce, 4, DType::f32});
      check.check({Operation::all_gather, i == 3 && comm_->rank() == last() ? 8 : 16, DType::bf16});
    }
  });
  EXPECT_EQ(text, "schedule: collective 7 differs: rank 0 calls all_gather of 16 bf16, rank " + std::to_string(last()) +
                      " calls all_gather of 8 bf16");
}

INSTANTIATE_TEST_SUITE_P(Interval, ScheduleCheckTest, testing::Values(1, 5));

TEST(ScheduleCheck, StopsADifferentCallBeforeItStarts) {
  MpiEnv env(nullptr, nullptr);
  const auto comm = make_mpi(env);
  if (comm->size() == 1) return;
  comm->set_schedule_check(std::make_unique<ScheduleCheck>(make_mpi(env)));
  float x = 1;
  try {
    comm->all_reduce({&x, 1, DType::f32}, comm->rank() == 1 ? ReduceOp::max : ReduceOp::sum);
    FAIL() << "different reductions were accepted";
  } catch (const CommError& error) {
    EXPECT_STREQ(error.what(),
                 "schedule: collective 0 differs: rank 0 calls all_reduce of 1 f32 (sum), rank 1 calls all_reduce of 1 "
                 "f32 (max)");
  }
}

}  // namespace
}  // namespace tessera::comm
