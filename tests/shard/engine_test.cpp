// The engine against the same model unsharded, on as many ranks as this program was started with.
#include "tessera/shard/engine.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>
#include <gtest/gtest.h>

#include "shard/toy_model.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::shard {
namespace {

using toy::ToyModel;
constexpr std::uint64_t kSeed = 11;
constexpr std::int64_t kBatch = 12;  // divides by 1, 2, 3, 4

LoadPolicy drawn() {
  LoadPolicy policy;
  policy.seed = kSeed;
  policy.may_initialize = [](const nn::ParamState&) { return true; };
  return policy;
}

at::Tensor ids_of(std::int64_t step) {
  return at::remainder(at::arange(kBatch) * 7 + step * 5 + 3, ToyModel::kVocab);
}

at::Tensor share(const at::Tensor& ids, int rank, int world) {
  const auto n = ids.size(0) / world;
  return ids.narrow(0, rank * n, n);
}

class EngineTest : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  EngineConfig config() const {
    EngineConfig c;
    c.policy.recompute = std::get<0>(GetParam());
    c.prefetch = std::get<1>(GetParam()) ? 1 : 0;
    return c;
  }
};

TEST_P(EngineTest, GradientsEqualTheUnshardedModels) {
  ToyModel local, sharded;
  nn::materialize(local.layout, kSeed);
  nn::LocalRunner runner;
  Engine engine(sharded.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();

  for (int pass = 0; pass < 3; ++pass) {  // the first records the order, later ones follow it with prefetch
    for (const auto& p : local.layout.params()) p->value().mutable_grad() = at::Tensor();
    const auto expected = local.loss(ids_of(pass), runner);
    expected.backward();

    engine.begin_step();
    engine.begin_pass(Pass::train);
    const auto mine = sharded.loss(share(ids_of(pass), comm->rank(), comm->size()), engine);
    engine.backward(mine);
    engine.end_pass();
    engine.reduce_held();
    double total = mine.item<double>();
    comm->all_reduce({&total, 1, comm::DType::f64});
    EXPECT_NEAR(total, expected.item<double>(), 1e-5 * std::abs(expected.item<double>()));

    double squares = 0;
    for (std::size_t u = 0; u < sharded.layout.units().size(); ++u) {
      engine.with_gradients(static_cast<nn::UnitId>(u), [&](const nn::ParamState& p, const at::Tensor& grad) {
        const auto want = local.layout.find(p.name)->value().grad();
        ASSERT_TRUE(want.defined()) << p.name;
        EXPECT_TRUE(grad.allclose(want, 1e-5, 1e-5)) << p.name << " in pass " << pass;
        EXPECT_GT(want.abs().max().item<float>(), 0.0F) << p.name;
        squares += (want.to(at::kDouble) * want.to(at::kDouble)).sum().item<double>();
      });
    }
    EXPECT_NEAR(engine.grad_norm(), std::sqrt(squares), 1e-5 * std::sqrt(squares));
    engine.end_step();
    EXPECT_EQ(engine.grad_norm(), 0.0);
  }
}

TEST_P(EngineTest, AccumulatedMicroBatchesAddUp) {
  ToyModel local, sharded;
  nn::materialize(local.layout, kSeed);
  nn::LocalRunner runner;
  Engine engine(sharded.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  for (int m = 0; m < 3; ++m) local.loss(ids_of(m), runner).backward();
  engine.begin_step();
  for (int m = 0; m < 3; ++m) {
    engine.begin_pass(Pass::train);
    engine.backward(sharded.loss(share(ids_of(m), comm->rank(), comm->size()), engine));
    engine.end_pass();
  }
  engine.reduce_held();
  for (std::size_t u = 0; u < sharded.layout.units().size(); ++u) {
    engine.with_gradients(static_cast<nn::UnitId>(u), [&](const nn::ParamState& p, const at::Tensor& grad) {
      EXPECT_TRUE(grad.allclose(local.layout.find(p.name)->value().grad(), 1e-5, 1e-4)) << p.name;
    });
  }
}

TEST_P(EngineTest, ARankWithNothingInItsBatchTakesPartAllTheSame) {
  ToyModel local, sharded;
  nn::materialize(local.layout, kSeed);
  nn::LocalRunner runner;
  Engine engine(sharded.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  local.loss(ids_of(0), runner).backward();
  engine.begin_step();
  engine.begin_pass(Pass::train);
  const auto ids = comm->rank() == 0 ? ids_of(0) : ids_of(0).narrow(0, 0, 0);  // all rows on rank 0
  engine.backward(sharded.loss(ids, engine));
  engine.end_pass();
  engine.reduce_held();
  engine.with_gradients(sharded.out, [&](const nn::ParamState& p, const at::Tensor& grad) {
    EXPECT_TRUE(grad.allclose(local.layout.find(p.name)->value().grad(), 1e-5, 1e-5)) << p.name;
  });
}

TEST_P(EngineTest, MemoryIsTheSlicesAndWhatIsGatheredReturnsToThePool) {
  ToyModel model;
  Engine engine(model.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  std::int64_t slices = 0;
  for (const auto& slice : engine.trained()) slices += slice.layout->slice();
  const auto memory = engine.memory();
  EXPECT_EQ(memory.master, slices * 4);
  EXPECT_EQ(memory.gradients, slices * 4);
  EXPECT_EQ(memory.optimizer, slices * 8);
  const std::int64_t trained = model.layout.trainable_elements() * 16;
  const std::int64_t padding =
      16 * GroupLayout::kAlign * 12;  // at most one alignment a tensor and one a group and rank
  EXPECT_LE(
      memory.sharded(),
      (trained + (model.layout.total_elements() - model.layout.trainable_elements()) * 4) / comm->size() + padding);
  std::int64_t after_first = 0;
  for (int step = 0; step < 5; ++step) {
    engine.begin_step();
    engine.begin_pass(Pass::train);
    engine.backward(model.loss(share(ids_of(step), comm->rank(), comm->size()), engine));
    engine.end_pass();
    engine.reduce_held();
    engine.end_step();
    if (step == 1) after_first = engine.memory().gathered_peak;
  }
  EXPECT_EQ(engine.memory().gathered_peak, after_first);  // no growth
}

TEST_P(EngineTest, TheBytesMovedEqualTheFormula) {
  ToyModel model;
  Engine engine(model.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  auto step = [&](int k) {
    engine.begin_step();
    engine.begin_pass(Pass::train);
    engine.backward(model.loss(share(ids_of(k), comm->rank(), comm->size()), engine));
    engine.end_pass();
    engine.reduce_held();
    engine.end_step();
  };
  step(0);
  comm->reset_counters();
  step(1);
  if (comm->size() == 1) {
    EXPECT_TRUE(comm->counters().empty());
    return;
  }
  // Each unit is gathered in forward and again for backward; the last one of forward stays for backward.
  std::int64_t gathered = 0, reduced = 0;
  for (const auto& unit : model.layout.units()) {
    std::vector<nn::Param> frozen, trained;
    for (const auto& p : unit.params) (p->trainable ? trained : frozen).push_back(p);
    std::int64_t slice = 0;
    if (!frozen.empty()) slice += GroupLayout(frozen, comm->size()).slice();
    if (!trained.empty()) slice += GroupLayout(trained, comm->size()).slice();
    const bool for_backward = config().policy.recompute || unit.backward_reads_weights;
    gathered += slice * (unit.fused || unit.name == "out" || !for_backward ? 1 : 2);
    if (!trained.empty()) reduced += GroupLayout(trained, comm->size()).slice();
  }
  EXPECT_EQ(comm->counters().find("all_gather")->second.received, gathered * 4 * (comm->size() - 1));
  EXPECT_EQ(comm->counters().find("reduce_scatter")->second.sent, reduced * 4 * (comm->size() - 1));
}

TEST_P(EngineTest, AnotherOrderOfUnitsIsAnErrorThatNamesTheUnit) {
  ToyModel model;
  Engine engine(model.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  auto forward = [&](nn::UnitId first) {
    engine.begin_pass(Pass::eval);
    for (const auto u : {first, model.frozen}) engine.run(u, {}, [](const nn::Tensors&) -> nn::Tensors { return {}; });
    engine.end_pass();
  };
  forward(model.embed);
  try {
    forward(model.mixed);
    FAIL() << "the deviation went unnoticed";
  } catch (const RunError& e) {
    EXPECT_NE(std::string(e.what()).find("'mixed'"), std::string::npos) << e.what();
  }
}

TEST_P(EngineTest, TrainingEqualsAdamWOnTheUnshardedModel) {
  ToyModel local, sharded;
  nn::materialize(local.layout, kSeed);
  nn::LocalRunner runner;
  Engine engine(sharded.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  Optimizer optimizer(engine, {0.9, 0.95, 1e-8}, {{"all", 1e-2, 0.1}, {"head", 2e-3, 0.0}},
                      [](const nn::ParamState& p) { return p.name == "out.weight" ? 1U : 0U; });
  std::map<std::string, std::pair<at::Tensor, at::Tensor>> moments;
  for (int k = 1; k <= 5; ++k) {
    engine.begin_step();
    engine.begin_pass(Pass::train);
    engine.backward(sharded.loss(share(ids_of(k), comm->rank(), comm->size()), engine));
    engine.end_pass();
    engine.reduce_held();
    const double scale = clip_scale(engine.grad_norm(), 1.0);
    optimizer.step(scale);
    engine.end_step();

    for (const auto& p : local.layout.params()) p->value().mutable_grad() = at::Tensor();
    local.loss(ids_of(k), runner).backward();
    const at::NoGradGuard no_grad;
    for (const auto& p : local.layout.params()) {
      if (!p->trainable) continue;
      const auto w = p->value();
      const auto g = w.grad() * scale;
      auto& [m, v] = moments[p->name];
      if (!m.defined()) m = g * 0, v = g * 0;
      const bool head = p->name == "out.weight";
      const double lr = head ? 2e-3 : 1e-2;
      w.mul_(1 - lr * (head ? 0.0 : 0.1));
      m = m * 0.9 + g * 0.1;
      v = v * 0.95 + g * g * 0.05;
      w.sub_(lr / (1 - std::pow(0.9, k)) * m / ((v / (1 - std::pow(0.95, k))).sqrt() + 1e-8));
    }
  }
  for (std::size_t u = 0; u < sharded.layout.units().size(); ++u) {
    engine.with_gathered(static_cast<nn::UnitId>(u), true, [&] {
      for (const auto& p : sharded.layout.units()[u].params) {
        EXPECT_TRUE(p->value().allclose(local.layout.find(p->name)->value(), 1e-4, 1e-5)) << p->name;
      }
    });
  }
}

TEST_P(EngineTest, TheDigestOfFrozenWeightsDoesNotDependOnTheCut) {
  ToyModel model;
  Engine engine(model.layout, comm::Fabric::on_host(*comm), config());
  engine.load(toy::NoTensors(), drawn());
  engine.settle();
  const auto digest = engine.frozen_digest();
  EXPECT_EQ(digest, 0xea33c1cd1acabc1aULL)
      << std::hex << digest;  // the same for each number of ranks this test runs on
  auto other = drawn();
  other.seed = kSeed + 1;
  engine.load(toy::NoTensors(), other);
  engine.settle();
  EXPECT_NE(engine.frozen_digest(), digest);
}

INSTANTIATE_TEST_SUITE_P(Modes, EngineTest,
                         testing::Values(std::tuple{true, true}, std::tuple{true, false}, std::tuple{false, true}),
                         [](const auto& mode) {
                           return std::string(std::get<0>(mode.param) ? "Recompute" : "KeepGraph") +
                                  (std::get<1>(mode.param) ? "Prefetch" : "OnDemand");
                         });

}  // namespace
}  // namespace tessera::shard
