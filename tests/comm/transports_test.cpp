#include "tessera/comm/transports.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

TEST(Transports, OnTheCpuGathersAndReductionsAreCountedApart) {
  MpiEnv env(nullptr, nullptr);
  Transports transports(env, {.device = "cpu"});
  EXPECT_FALSE(transports.on_gpu());
  EXPECT_EQ(transports.gpu(), nullptr);
  const Fabric& fabric = transports.fabric();
  std::vector<float> full(static_cast<std::size_t>(env.size()), 1.0F);
  float shard = 2;
  fabric.gather->all_gather({&shard, 1, DType::f32}, {full.data(), env.size(), DType::f32});
  fabric.reduce->reduce_scatter({full.data(), env.size(), DType::f32}, {&shard, 1, DType::f32});
  EXPECT_EQ(shard, 2.0F * static_cast<float>(env.size()));
  EXPECT_EQ(fabric.node_gather, nullptr);  // one host
  EXPECT_EQ(fabric.cross_gather, nullptr);
  EXPECT_EQ(transports.warning(), "");
  EXPECT_EQ(fabric.gather->counters().size(), 1U);
  EXPECT_EQ(fabric.reduce->counters().size(), 1U);
  EXPECT_TRUE(fabric.control->counters().empty());
  transports.close();
}

TEST(Transports, AutoFallsBackToTheCpuAsOne) {
  MpiEnv env(nullptr, nullptr);
  if (gpu_count() >= env.local_size()) GTEST_SKIP() << "skipped: this host has a GPU for every rank";
  Transports transports(env);
  EXPECT_EQ(transports.fabric().gather->transport(), "mpi");
  transports.close();
}

TEST(Transports, CudaWithoutAGpuIsRefusedOnEveryRank) {
  MpiEnv env(nullptr, nullptr);
  if (gpu_count() >= env.local_size()) GTEST_SKIP() << "skipped: this host has a GPU for every rank";
  EXPECT_THROW(Transports(env, {.device = "cuda"}), RequestError);
  EXPECT_THROW(Transports(env, {.device = "gpu0"}), RequestError);
}

TEST(Transports, PlayedNodesGatherWithoutAByteBetweenThem) {
  MpiEnv env(nullptr, nullptr);
  for (const int ranks : {1, 2, 3}) {
    if (env.size() % ranks != 0) {
      EXPECT_THROW(Transports(env, {.device = "cpu", .ranks_per_node = ranks}), RequestError);
      continue;
    }
    SCOPED_TRACE(testing::Message() << ranks << " ranks per node");
    Transports transports(env, {.device = "cpu", .check_schedule = true, .ranks_per_node = ranks});
    const Fabric& fabric = transports.fabric();
    const int nodes = env.size() / ranks;
    EXPECT_EQ(fabric.nodes(), nodes);
    EXPECT_EQ(fabric.node(), env.rank() / ranks);
    EXPECT_EQ(fabric.node_size(), ranks);
    EXPECT_EQ(fabric.node_rank(), env.rank() % ranks);
    EXPECT_EQ(fabric.node_gather == nullptr, nodes == 1);
    EXPECT_EQ(fabric.cross_gather == nullptr, nodes == 1);
    if (nodes > 1) {
      const float mine = static_cast<float>(env.rank());
      std::vector<float> node(static_cast<std::size_t>(ranks));
      fabric.node_gather->all_gather({&mine, 1, DType::f32}, {node.data(), ranks, DType::f32});
      for (int i = 0; i < ranks; ++i) {
        EXPECT_EQ(node[static_cast<std::size_t>(i)], static_cast<float>(fabric.node() * ranks + i));
      }
      EXPECT_EQ(fabric.node_gather->counters().at("all_gather").received, 4 * (ranks - 1));
      EXPECT_TRUE(fabric.cross_gather->counters().empty());
      EXPECT_TRUE(fabric.gather->counters().empty());
      std::vector<float> across(static_cast<std::size_t>(nodes));
      fabric.cross_gather->all_gather({&mine, 1, DType::f32}, {across.data(), nodes, DType::f32});
      for (int i = 0; i < nodes; ++i) {
        EXPECT_EQ(across[static_cast<std::size_t>(i)], static_cast<float>(i * ranks + fabric.node_rank()));
      }
    }
    transports.close();
  }
}

TEST(Transports, DebugModeNamesADifferentCall) {
  MpiEnv env(nullptr, nullptr);
  if (env.size() == 1) return;
  Transports transports(env, {.device = "cpu", .check_schedule = true});
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
