#include "tessera/shard/plan.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>
#include <gtest/gtest.h>

#include "shard/toy_model.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::shard {
namespace {

TEST(Plan, PredictsExactlyWhatTheEngineHoldsAndMoves) {
  comm::MpiEnv env(nullptr, nullptr);
  const auto comm = comm::make_mpi(env);
  for (const bool prefetch : {true, false}) {
    toy::ToyModel model;
    EngineConfig config;
    config.prefetch = prefetch ? 1 : 0;
    Engine engine(model.layout, comm::Fabric::on_host(*comm), config);
    LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(toy::EmptySource(), policy);
    engine.settle();
    const Plan plan = make_plan(model.layout, {comm->size(), 1, config, 2, {}});
    for (int step = 0; step < 2; ++step) {
      comm->reset_counters();
      engine.reset_peaks();
      engine.begin_step();
      for (int m = 0; m < 2; ++m) {
        engine.begin_pass(Pass::train);
        engine.backward(model.loss(at::remainder(at::arange(3) + comm->rank() + m, toy::ToyModel::kVocab), engine));
        engine.end_pass();
      }
      engine.reduce_held();
      engine.end_step();
    }
    const auto memory = engine.memory();
    EXPECT_EQ(plan.memory.frozen, memory.frozen);
    EXPECT_EQ(plan.memory.master, memory.master);
    EXPECT_EQ(plan.memory.sharded(), memory.sharded());
    EXPECT_EQ(plan.memory.held, memory.held);
    EXPECT_EQ(plan.memory.gathered_peak, memory.gathered_peak) << "prefetch " << prefetch;
    if (comm->size() == 1) continue;
    EXPECT_EQ(plan.gathered_sent, comm->counters().find("all_gather")->second.sent);
    EXPECT_EQ(plan.reduced_sent, comm->counters().find("reduce_scatter")->second.sent);
  }
}

}  // namespace
}  // namespace tessera::shard
