// Where weights live and when they move changes memory and traffic, never a result; and the plan counts it exactly.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>

#include "shard/toy_training.hpp"
#include "shard/two_nodes.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/plan.hpp"

namespace tessera::shard {
namespace {

using toy::ToyModel;
constexpr int kMicro = 12;

struct Case {
  const char* name;
  EngineConfig config;
};

EngineConfig with(UnitPolicy policy, int prefetch = 1, std::int64_t keep = 0) {
  EngineConfig c;
  c.policy = policy;
  c.prefetch = prefetch;
  c.keep_bytes = keep;
  return c;
}

EngineConfig mixed() {  // one policy per unit: embed, frozen, mixed, out, adapters
  EngineConfig c;
  c.units.resize(5);
  c.units[1].frozen = Placement::resident;
  c.units[2].frozen = Placement::node;
  c.units[2].recompute = false;
  return c;
}

EngineConfig layer_major(int micro_batches) {
  EngineConfig c;
  c.layer_major = micro_batches;
  return c;
}

EngineConfig offloaded() {
  EngineConfig c;
  c.policy.offload = true;
  c.offload_optimizer = true;
  return c;
}

EngineConfig plain_sums() {
  EngineConfig c;
  c.reproducible = false;
  return c;
}

std::vector<Case> cases() {
  return {{"world", {}},
          {"node", with({Placement::node})},
          {"resident", with({Placement::resident})},
          {"resident offloaded", with({Placement::resident, true, true})},
          {"node offloaded", with({Placement::node, true, true})},
          {"offloaded", offloaded()},
          {"mixed", mixed()},
          {"no prefetch", with({}, 0)},
          {"deep prefetch", with({}, 3)},
          {"some kept", with({}, 1, 2000)},
          {"all kept", with({}, 1, std::int64_t{1} << 30)},
          {"graph kept", with({Placement::world, false})},
          {"layer by layer", layer_major(3)},
          {"plain sums", plain_sums()}};
}

struct PlacementTest : TwoNodesTest {
  std::int64_t sent(const comm::Communicator& comm, std::string_view kind) {
    const auto found = comm.counters().find(kind);
    return found == comm.counters().end() ? 0 : found->second.sent;
  }
};

TEST_F(PlacementTest, NoPlacementChangesABit) {
  const ToyModel model;
  const auto want = toy::train(model, fabric(), {}, 4, kMicro);
  for (auto& c : cases()) {
    if (kMicro / world->size() % c.config.layer_major != 0 || !c.config.reproducible) continue;
    EXPECT_EQ(toy::train(model, fabric(), c.config, 4, kMicro), want) << c.name;
  }
}

TEST_F(PlacementTest, PlainSumsDifferByRoundingAlone) {
  const ToyModel model;
  const auto want = toy::train(model, fabric(), {}, 4, kMicro);
  const auto got = toy::train(model, fabric(), plain_sums(), 4, kMicro);
  for (std::size_t i = 0; i < want.losses.size(); ++i) {
    EXPECT_NEAR(got.losses[i], want.losses[i], 1e-5 * want.losses[i]);
    EXPECT_NEAR(got.norms[i], want.norms[i], 1e-4 * want.norms[i]);
  }
}

TEST_F(PlacementTest, ThePlanIsExact) {
  const int own = kMicro / world->size();
  for (auto& c : cases()) {
    if (own % c.config.layer_major != 0) continue;
    const ToyModel model;
    const auto f = fabric();
    const auto plan = make_plan(model.layout, {world->size(), f.nodes(), c.config, own, {}});
    MemoryReport memory;
    toy::train(model, f, c.config, 3, kMicro, [&](Engine& engine) {
      // Once more, counted: the schedule is known by now.
      Optimizer optimizer(engine, {}, {{"all", 1e-3, 0}}, [](const nn::ParamState&) { return 0U; });
      engine.reset_peaks();
      world->reset_counters();
      if (node) node->reset_counters();
      engine.begin_step();
      auto forward = [&](int m) { return model.loss(toy::micro_ids(0, m), engine); };
      for (int m = 0; m < own; m += c.config.layer_major) {
        if (c.config.layer_major > 1) {
          std::vector<std::function<at::Tensor()>> forwards(static_cast<std::size_t>(c.config.layer_major),
                                                            [&] { return forward(1); });
          engine.run_layer_major(forwards);
          continue;
        }
        engine.begin_pass(Pass::train);
        engine.backward(forward(m));
        engine.end_pass();
      }
      engine.reduce_held();
      engine.end_step();
      memory = engine.memory();
      EXPECT_EQ(plan.gathered_sent, sent(*world, "all_gather")) << c.name;
      EXPECT_EQ(plan.reduced_sent, sent(*world, "reduce_scatter")) << c.name;
      EXPECT_EQ(plan.node_sent, node ? sent(*node, "all_gather") : 0) << c.name;
    });
    EXPECT_EQ(plan.memory.frozen, memory.frozen) << c.name;
    EXPECT_EQ(plan.memory.sharded(), memory.sharded()) << c.name;
    EXPECT_EQ(plan.memory.host, memory.host) << c.name;
    EXPECT_EQ(plan.memory.held, memory.held) << c.name;
    EXPECT_EQ(plan.memory.gathered_peak, memory.gathered_peak) << c.name;
  }
}

TEST_F(PlacementTest, FrozenWeightsShardedOverTheNodeNeverCrossNodes) {
  const ToyModel model;
  const auto f = fabric();
  if (f.nodes() == 1) GTEST_SKIP() << "needs an even number of ranks";
  toy::train(model, f, with({Placement::node}), 2, kMicro, [&](Engine& engine) {
    world->reset_counters();
    cross->reset_counters();
    node->reset_counters();
    engine.begin_step();
    engine.begin_pass(Pass::eval);
    const at::NoGradGuard no_grad;
    engine.run(model.frozen, {}, [](const nn::Tensors&) -> nn::Tensors { return {}; });
    engine.end_pass();
    EXPECT_EQ(sent(*cross, "all_gather"), 0);
    EXPECT_EQ(node->size() > 1, sent(*node, "all_gather") > 0);
    engine.end_step();
  });
}

TEST_F(PlacementTest, WhatStaysResidentIsNotGatheredAgain) {
  const ToyModel model;
  toy::train(model, fabric(), with({Placement::resident}), 2, kMicro, [&](Engine& engine) {
    world->reset_counters();
    engine.begin_step();
    const auto fused = sent(*world, "all_gather");
    engine.begin_pass(Pass::eval);
    const at::NoGradGuard no_grad;
    engine.run(model.frozen, {}, [](const nn::Tensors&) -> nn::Tensors { return {}; });
    engine.end_pass();
    engine.end_step();
    EXPECT_EQ(sent(*world, "all_gather"), fused);
  });
}

// A head that borrows the embedding's table.
struct TiedModel {
  nn::ModelLayout layout;
  nn::Param table, body;
  nn::UnitId embed = -1, middle = -1, head = -1;
  TiedModel() {
    embed = layout.add_unit("embed");
    table = layout.add(embed, "embed.weight", {19, 7}, nn::Init::normal(0.5));
    middle = layout.add_unit("middle");
    body = layout.add(middle, "middle.weight", {7, 7}, nn::Init::normal(0.4));
    head = layout.add_unit("head");
    layout.borrow(head, embed);
    table->trainable = body->trainable = true;
  }
  at::Tensor loss(const at::Tensor& ids, nn::UnitRunner& runner) const {
    auto x = runner.run(
        embed, {ids}, [&](const nn::Tensors& in) -> nn::Tensors { return {at::embedding(table->value(), in[0])}; })[0];
    x = runner.run(middle, {x}, [&](const nn::Tensors& in) -> nn::Tensors {
      return {at::relu(at::linear(in[0], body->value()))};
    })[0];
    x = runner.run(head, {x},
                   [&](const nn::Tensors& in) -> nn::Tensors { return {at::linear(in[0], table->value())}; })[0];
    return (x * x).sum();
  }
};

TEST_F(PlacementTest, TiedWeightsGetBothGradients) {
  for (const bool recompute : {true, false}) {
    TiedModel local, sharded;
    nn::materialize(local.layout, 11);
    nn::LocalRunner runner;
    auto config = with({Placement::world, recompute});
    Engine engine(sharded.layout, fabric(), config);
    engine.load(toy::NoTensors(), toy::drawn());
    engine.settle();
    for (int step = 0; step < 2; ++step) {
      for (const auto& p : local.layout.params()) p->value().mutable_grad() = at::Tensor();
      at::Tensor all;
      for (int rank = 0; rank < world->size(); ++rank) {
        const auto ids = at::remainder(at::arange(4) * 3 + rank + step, 19);
        local.loss(ids, runner).backward();
        if (rank == world->rank()) all = ids;
      }
      world->reset_counters();
      engine.begin_step();
      engine.begin_pass(Pass::train);
      engine.backward(sharded.loss(all, engine));
      engine.end_pass();
      const auto plan = make_plan(sharded.layout, {world->size(), fabric().nodes(), config, 1, {}});
      if (step == 1) {
        EXPECT_EQ(plan.gathered_sent, sent(*world, "all_gather"));
        EXPECT_EQ(plan.reduced_sent, sent(*world, "reduce_scatter"));
      }
      for (const auto unit : {sharded.embed, sharded.middle}) {
        engine.with_gradients(unit, [&](const nn::ParamState& p, const at::Tensor& grad) {
          EXPECT_TRUE(grad.allclose(local.layout.find(p.name)->value().grad(), 1e-5, 1e-5)) << p.name;
        });
      }
      engine.end_step();
    }
  }
}

TEST_F(PlacementTest, PlansThatDifferAreRefusedWithTheRanksAndTheUnit) {
  if (world->size() == 1) GTEST_SKIP() << "needs two ranks";
  ToyModel model;
  if (world->rank() == 1) model.mixed_b->trainable = false;
  Engine engine(model.layout, fabric(), {});
  try {
    engine.settle();
    FAIL() << "the ranks' plans differ";
  } catch (const RequestError& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("rank 1"), std::string::npos) << what;
    EXPECT_NE(what.find("'mixed'"), std::string::npos) << what;
  }
}

TEST_F(PlacementTest, SchedulesThatDifferAreNamed) {
  if (world->size() == 1) GTEST_SKIP() << "needs two ranks";
  nn::ModelLayout layout;
  const auto a = layout.add_unit("a"), b = layout.add_unit("b");
  for (const auto& [unit, name] : {std::pair{a, "a.weight"}, std::pair{b, "b.weight"}}) {
    layout.add(unit, name, {5, 5}, nn::Init::ones());
  }
  Engine engine(layout, fabric(), {});
  engine.load(toy::NoTensors(), toy::drawn());
  engine.settle();
  engine.begin_step();
  engine.begin_pass(Pass::free_order);
  const bool odd = world->rank() % 2 == 1;
  for (const auto unit : {odd ? b : a, odd ? a : b}) {
    engine.run(unit, {}, [](const nn::Tensors&) -> nn::Tensors { return {}; });
  }
  engine.end_pass();
  try {
    engine.check_gradients();
    FAIL() << "the schedules differ";
  } catch (const RunError& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("rank 1 has: gather of frozen weights of unit 'b'"), std::string::npos) << what;
  }
}

TEST_F(PlacementTest, AGradientThatIsNotFiniteIsNamed) {
  const ToyModel model;
  Engine engine(model.layout, fabric(), {});
  engine.load(toy::NoTensors(), toy::drawn());
  engine.settle();
  const int guilty = world->size() - 1;
  for (int step = 0; step < 2; ++step) {
    engine.begin_step();
    engine.begin_pass(Pass::train);
    auto loss = model.loss(toy::micro_ids(0, 1), engine);
    if (step == 0 && world->rank() == guilty) loss = loss * std::numeric_limits<double>::quiet_NaN();
    engine.backward(loss);
    engine.end_pass();
    engine.reduce_held();
    const auto report = engine.check_gradients();
    EXPECT_EQ(report.finite, step == 1);
    EXPECT_EQ(report.rank, step == 0 ? guilty : -1);
    EXPECT_EQ(report.parameter.empty(), step == 1) << report.parameter;
    engine.end_step();
  }
}

}  // namespace
}  // namespace tessera::shard
