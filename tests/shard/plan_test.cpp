#include "tessera/shard/plan.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>
#include <gtest/gtest.h>

#include "shard/toy_model.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::shard {
namespace {

struct Case {
  int prefetch;
  bool tied;
  ComputeType compute;
  int layer_major;
};

class Plans : public testing::TestWithParam<Case> {};

TEST_P(Plans, PredictExactlyWhatTheEngineHoldsAndMoves) {
  comm::MpiEnv env(nullptr, nullptr);
  const auto comm = comm::make_mpi(env);
  {
    toy::ToyModel model(true, GetParam().tied);
    EngineConfig config;
    config.prefetch = GetParam().prefetch;
    config.compute = GetParam().compute;
    config.layer_major = GetParam().layer_major;
    Engine engine(model.layout, comm::Fabric::on_host(*comm), config);
    LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(toy::NoTensors(), policy);
    engine.settle();
    const Plan plan = make_plan(model.layout, {comm->size(), 1, config, 2, {}});
    for (int step = 0; step < 2; ++step) {
      comm->reset_counters();
      engine.reset_peaks();
      engine.begin_step();
      const auto forward = [&](int m) {
        return model.loss(at::remainder(at::arange(3) + comm->rank() + m, toy::ToyModel::kVocab), engine);
      };
      if (config.layer_major == 2) {
        engine.run_layer_major({[&] { return forward(0); }, [&] { return forward(1); }});
      }
      for (int m = 0; m < 2 && config.layer_major == 1; ++m) {
        engine.begin_pass(Pass::train);
        engine.backward(forward(m));
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
    EXPECT_EQ(plan.memory.gathered_peak, memory.gathered_peak);
    if (comm->size() == 1) return;
    EXPECT_EQ(plan.gathered_sent, comm->counters().find("all_gather")->second.sent);
    EXPECT_EQ(plan.reduced_sent, comm->counters().find("reduce_scatter")->second.sent);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Plans,
                         testing::Values(Case{1, false, ComputeType::f32, 1}, Case{0, false, ComputeType::f32, 1},
                                         Case{1, true, ComputeType::f32, 1}, Case{0, true, ComputeType::bf16, 1},
                                         Case{1, false, ComputeType::bf16, 2}, Case{1, true, ComputeType::f32, 2},
                                         Case{1, true, ComputeType::bf16, 2}));

}  // namespace
}  // namespace tessera::shard
