#include "tessera/train/machine.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "tessera/core/memory.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

const c10::Device kCpu(c10::DeviceType::CPU);

TEST(Machine, RatesAreThoseOfTheSlowestRankOnAllRanks) {
  toy::Job job;
  const auto rates = measure_rates(job.fabric(), kCpu, shard::ComputeType::f32);
  EXPECT_GT(rates.tflops, 1e-5);
  EXPECT_LT(rates.tflops, 100);
  EXPECT_GT(rates.memory_gbs, 0.01);
  EXPECT_EQ(rates.link_gbs > 0, job.comm().size() > 1);
  EXPECT_FALSE(rates.overlap);
  double values[2] = {rates.tflops, -rates.tflops};
  job.comm().all_reduce({values, 2, comm::DType::f64}, comm::ReduceOp::max);
  EXPECT_EQ(values[0], -values[1]);
}

TEST(Machine, TheBudgetIsABaselineAndAShareOfWhatIsFree) {
  toy::Job job;
  const auto limits = measure_memory(job.fabric(), kCpu);
  ASSERT_TRUE(limits.has_value());
  EXPECT_GE(limits->baseline, memory_in_use(kCpu) / 2);
  const auto share = available_memory_bytes() / job.comm().size();
  EXPECT_GT(limits->budget, limits->baseline);
  EXPECT_LT(limits->budget, limits->baseline + 2 * share);
}

TEST(Machine, UseAndPeakFollowAnAllocation) {
  const auto before = memory_in_use(kCpu);
  std::vector<char> block(64 << 20, 1);
  EXPECT_GT(memory_in_use(kCpu), before + (60 << 20));
  EXPECT_GE(peak_memory_in_use(kCpu), memory_in_use(kCpu) - (1 << 20));
  EXPECT_EQ(block[block.size() / 2], 1);
}

}  // namespace
}  // namespace tessera::train
