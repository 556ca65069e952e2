#include "tessera/comm/transports.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

TEST(Transports, OnTheCpuGathersAndReductionsAreCountedApart) {
  MpiEnv env(nullptr, nullptr);
  Transports transports(env, "cpu");
  EXPECT_FALSE(transports.on_gpu());
  EXPECT_EQ(transports.gpu(), nullptr);
  const Fabric& fabric = transports.fabric();
  std::vector<float> full(static_cast<std::size_t>(env.size()), 1.0F);
  float shard = 2;
  fabric.gather->all_gather({&shard, 1, DType::f32}, {full.data(), env.size(), DType::f32});
  fabric.reduce->reduce_scatter({full.data(), env.size(), DType::f32}, {&shard, 1, DType::f32});
  EXPECT_EQ(shard, 2.0F * static_cast<float>(env.size()));
  EXPECT_EQ(fabric.gather->counters().size(), 1U);
  EXPECT_EQ(fabric.reduce->counters().size(), 1U);
  EXPECT_TRUE(fabric.control->counters().empty());
  transports.close();
}

TEST(Transports, AutoFallsBackToTheCpuAsOne) {
  MpiEnv env(nullptr, nullptr);
  if (gpu_count() >= env.local_size()) GTEST_SKIP() << "skipped: this host has a GPU for every rank";
  Transports transports(env, "auto");
  EXPECT_EQ(transports.fabric().gather->transport(), "mpi");
  transports.close();
}

TEST(Transports, CudaWithoutAGpuIsRefusedOnEveryRank) {
  MpiEnv env(nullptr, nullptr);
  if (gpu_count() >= env.local_size()) GTEST_SKIP() << "skipped: this host has a GPU for every rank";
  EXPECT_THROW(Transports(env, "cuda"), RequestError);
  EXPECT_THROW(Transports(env, "gpu0"), RequestError);
}

TEST(Transports, DebugModeNamesADifferentCall) {
  MpiEnv env(nullptr, nullptr);
  if (env.size() == 1) return;
  Transports transports(env, "cpu", true);
  std::vector<float> data(8, 1.0F);
  try {
    transports.fabric().reduce->all_reduce({data.data(), env.rank() == 0 ? 8 : 7, DType::f32});
    FAIL() << "different counts were accepted";
  } catch (const CommError& error) {
    EXPECT_STREQ(error.what(),
                 "schedule: collective 0 differs: rank 0 calls all_reduce of 8 f32 (sum), rank 1 calls all_reduce of 7 "
                 "f32 (sum)");
    EXPECT_TRUE(error.everywhere());
  }
}

}  // namespace
}  // namespace tessera::comm
