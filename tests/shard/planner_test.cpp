#include "tessera/shard/planner.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::int64_t kElements = 4 * kMiB;  // of each unit's frozen matrix: 16 MiB in fp32
using testing_support::message_of;

// Six layers of 16 MiB, frozen, with a small trained unit behind them. A layer keeps 10 MiB of graph or 1 of input.
struct Case {
  nn::ModelLayout layout;
  PlannerRequest request;

  explicit Case(int world, int nodes = 1) {
    for (int i = 0; i < 6; ++i) {
      const auto unit = layout.add_unit("layer." + std::to_string(i));
      layout.add(unit, "layer." + std::to_string(i) + ".weight", {kElements}, nn::Init::zeros());
    }
    const auto head = layout.add_unit("head");
    layout.add(head, "head.weight", {1 << 16}, nn::Init::zeros())->trainable = true;
    layout.mark_light(head);
    request.world = world;
    request.nodes = nodes;
    request.micro_batches = 2;
    request.work.units.resize(7);
    for (std::size_t u = 0; u < 6; ++u) {
      auto& w = request.work.units[u];
      w.inputs = kMiB;
      w.graph = 10 * kMiB;
      w.forward_extra = 2 * kMiB;
      w.backward_extra = 3 * kMiB;
      w.forward_flop = 1e9;
      w.backward_flop = 1e9;
    }
    request.work.units[6] = {.inputs = kMiB, .graph = 4 * kMiB};
    request.baseline = 100 * kMiB;
    request.rates = {.tflops = 0.1, .memory_gbs = 10, .link_gbs = 1, .node_link_gbs = 4};
  }
  RunPlan choose() const { return Planner(layout, request).choose(); }
  RunPlan choose_within(std::int64_t mib) {
    request.budget = mib * kMiB;
    return choose();
  }
};

std::size_t recomputed(const RunPlan& plan) {
  std::size_t n = 0;
  for (const auto& u : plan.engine.units) n += u.recompute ? 1 : 0;
  return n;
}

TEST(Planner, WithRoomKeepsEverythingWhereItIsUsed) {
  const auto plan = Case(4).choose_within(4096);
  EXPECT_EQ(plan.engine.policy.frozen, Placement::resident);
  EXPECT_EQ(recomputed(plan), 0U);
  EXPECT_EQ(plan.memory.frozen, 96 * kMiB);
  // What all graphs keep, the most that forward and backward need beside it, and three tenths for the heap's gaps.
  EXPECT_EQ(plan.memory.activations, (6 * 10 + 4 + 2 + 3) * kMiB * 13 / 10);
  ASSERT_FALSE(plan.why.empty());
  EXPECT_NE(plan.why.front().find("resident"), std::string::npos);
  EXPECT_NE(plan.why.front().find("4.00 GiB"), std::string::npos) << plan.why.front();
}

TEST(Planner, GivesUpActivationsAndPlacementAsTheBudgetShrinks) {
  Case c(4);
  std::int64_t peak = std::int64_t{1} << 40;
  for (const std::int64_t mib : {290, 250, 230, 210, 200, 190}) {
    const auto plan = c.choose_within(mib);
    EXPECT_LE(plan.memory.total(), mib * kMiB);
    EXPECT_LE(plan.memory.total(), peak + kMiB) << mib;
    peak = plan.memory.total();
  }
  const auto tight = c.choose_within(190);
  EXPECT_EQ(tight.engine.policy.frozen, Placement::world);
  EXPECT_GT(recomputed(tight), 0U);
  EXPECT_FALSE(tight.engine.units.back().recompute);  // light: it would save nothing
  EXPECT_EQ(tight.engine.units.front().recompute, true);
}

TEST(Planner, SaysTheSmallestBudgetAndThatOneHolds) {
  Case c(4);
  const auto text = message_of<RequestError>([&] { c.choose_within(120); });
  EXPECT_NE(text.find("--memory_budget"), std::string::npos) << text;
  EXPECT_NE(text.find("120.0 MiB"), std::string::npos) << text;
  const auto at = text.find("that can is ");
  ASSERT_NE(at, std::string::npos) << text;
  const double smallest = std::stod(text.substr(at + 12));
  EXPECT_GT(smallest, 120);
  EXPECT_NO_THROW(c.choose_within(static_cast<std::int64_t>(smallest) + 1));
  EXPECT_THROW(c.choose_within(static_cast<std::int64_t>(smallest) - 1), RequestError);
}

TEST(Planner, GathersNothingAheadWhereTwoUnitsDoNotFit) {
  Case c(4);
  auto smallest = [&] {
    const auto text = message_of<RequestError>([&] { c.choose_within(1); });
    return static_cast<std::int64_t>(std::stod(text.substr(text.find("that can is ") + 12))) + 1;
  };
  c.request.choices.prefetch = 1;
  const auto ahead = smallest();
  c.request.choices.prefetch.reset();
  EXPECT_EQ(smallest(), ahead - 16);  // one layer less at once
  EXPECT_EQ(c.choose_within(ahead).engine.prefetch, 1);
  const auto tight = c.choose_within(ahead - 16);
  EXPECT_EQ(tight.engine.prefetch, 0);
  EXPECT_NE(tight.why.back().find("ahead"), std::string::npos) << tight.why.back();
}

TEST(Planner, KeepsFrozenWeightsInTheNodeBetweenResidentAndWorld) {
  Case c(8, 2);
  c.request.choices.recompute_fraction = 1.0;
  const auto resident = c.choose_within(4096);
  EXPECT_EQ(resident.engine.policy.frozen, Placement::resident);
  // A node of four holds a fourth of 96 MiB a rank, the world of eight an eighth.
  const auto total = resident.memory.total() / kMiB;
  const auto node = c.choose_within(total - 5);
  EXPECT_EQ(node.engine.policy.frozen, Placement::node);
  EXPECT_GT(node.plan.node_sent, 0);
  c.request.choices.frozen = Placement::world;
  const auto world = c.choose_within(total - 5);
  EXPECT_EQ(world.plan.node_sent, 0);
  EXPECT_GT(world.time.gather, node.time.node_gather);  // thinner links
}

TEST(Planner, SpendsWhatIsLeftOnKeepingGatheredWeights) {
  Case c(4);
  c.request.choices.frozen = Placement::world;
  c.request.choices.keep_bytes = 0;
  const auto poor = c.choose_within(4096);
  c.request.choices.keep_bytes.reset();
  const auto rich = c.choose_within(4096);
  EXPECT_GT(rich.engine.keep_bytes, 0);
  EXPECT_LT(rich.plan.gathered_sent, poor.plan.gathered_sent);
  EXPECT_LE(rich.memory.total(), 4096 * kMiB);
}

TEST(Planner, BatchesWaitInHostMemoryBesideAGpu) {
  Case c(1);
  c.request.work.batch = kMiB;
  c.request.work.batches = 7 * kMiB;
  EXPECT_EQ(c.choose().memory.batches, 7 * kMiB);
  EXPECT_EQ(c.choose().memory.host, 0);
  c.request.engine.device = c10::Device(c10::DeviceType::CUDA, 0);
  c.request.engine.layer_major = 2;
  EXPECT_EQ(c.choose().memory.batches, 2 * kMiB);
  EXPECT_EQ(c.choose().memory.host, 7 * kMiB);
  EXPECT_EQ(c.choose().memory.read_ahead, 7 * kMiB);
}

TEST(Planner, OffloadsOnAGpuOnlyWhenNothingElseFits) {
  Case c(1);
  c.layout.find("layer.5.weight")->trainable = true;
  const auto cpu_text = message_of<RequestError>([&] { c.choose_within(255); });
  EXPECT_FALSE(cpu_text.empty());
  c.request.engine.device = c10::Device(c10::DeviceType::CUDA, 0);
  const auto roomy = c.choose_within(4096);
  EXPECT_FALSE(roomy.engine.offload_optimizer);
  EXPECT_EQ(roomy.memory.host, 0);
  const auto tight = c.choose_within(255);
  EXPECT_TRUE(tight.engine.offload_optimizer);
  EXPECT_GT(tight.memory.host, 0);
  EXPECT_EQ(tight.memory.optimizer, 0);
  EXPECT_LT(tight.memory.total(), roomy.memory.total());
  // A GPU's allocator hands the same memory out again: the peak is that of the moment.
  EXPECT_EQ(roomy.memory.activations, (6 * 10 + 4) * kMiB);
}

TEST(Planner, WhatIsAskedForIsKept) {
  Case c(4);
  c.request.choices.frozen = Placement::world;
  c.request.choices.recompute = std::vector<bool>{true, false, false, true, false, false, false};
  c.request.choices.keep_bytes = 5 * kMiB;
  const auto plan = c.choose_within(4096);
  EXPECT_EQ(plan.engine.policy.frozen, Placement::world);
  EXPECT_EQ(recomputed(plan), 2U);
  EXPECT_TRUE(plan.engine.units[3].recompute);
  EXPECT_EQ(plan.engine.keep_bytes, 5 * kMiB);
  c.request.choices.recompute.reset();
  c.request.choices.recompute_fraction = 0.5;
  EXPECT_EQ(recomputed(c.choose_within(4096)), 3U);
}

TEST(Planner, LayerByLayerInOneOrderNeedsTrainedUnitsRecomputed) {
  Case c(2);
  c.request.engine.layer_major = 2;
  c.request.engine.reproducible = true;
  const auto plan = c.choose_within(4096);
  EXPECT_TRUE(plan.engine.units.back().recompute);
  EXPECT_FALSE(plan.engine.units.front().recompute);
  // Both micro-batches' graphs live at once.
  EXPECT_GT(plan.memory.activations, 2 * 6 * 10 * kMiB);
}

TEST(Planner, TimeIsTheSumOrTheLongerOfArithmeticAndTraffic) {
  Case c(4);
  c.request.choices.frozen = Placement::world;
  c.request.choices.recompute_fraction = 1.0;
  c.request.choices.keep_bytes = 0;
  const auto serial = c.choose();
  const auto& t = serial.time;
  EXPECT_NEAR(t.products, 2 * 6 * 2e9 / 0.1e12, 1e-9);
  EXPECT_NEAR(t.recompute, 2 * 6 * 1e9 / 0.1e12, 1e-9);
  EXPECT_NEAR(t.gather, static_cast<double>(serial.plan.gathered_sent) / 4e9, 1e-9);
  EXPECT_NEAR(t.step, t.products + t.recompute + t.other + t.gather + t.reduce + t.optimizer, 1e-9);
  c.request.rates.overlap = true;
  EXPECT_LT(c.choose().time.step, t.step);
}

TEST(Planner, AWorkloadOfAnotherModelIsRefused) {
  Case c(1);
  c.request.work.units.pop_back();
  EXPECT_THROW(Planner(c.layout, c.request), RunError);
}

}  // namespace
}  // namespace tessera::shard
