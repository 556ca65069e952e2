// Frozen embeddings and heads that are never whole on a rank: gathered block by block of rows.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "shard/toy_training.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/nn/weighted.hpp"
#include "tessera/shard/plan.hpp"

namespace tessera::shard {
namespace {

constexpr std::int64_t kVocab = 97, kDim = 7;

// Embedding, one trained layer, and a head with a norm's weight of its own or the embedding's table.
struct RowModel {
  nn::ModelLayout layout;
  nn::Param table, body, scale, classes;
  nn::UnitId embed = -1, middle = -1, head = -1;

  explicit RowModel(bool tied) {
    embed = layout.add_unit("embed");
    table = layout.add(embed, "embed.weight", {kVocab, kDim}, nn::Init::normal(0.5));
    layout.mark_light(embed, /*backward_reads_weights=*/false);
    layout.mark_row_matrix(embed, table);
    middle = layout.add_unit("middle");
    body = layout.add(middle, "middle.weight", {kDim, kDim}, nn::Init::normal(0.4));
    body->trainable = true;
    head = layout.add_unit("head");
    layout.mark_light(head);
    scale = layout.add(head, "head.scale", {kDim}, nn::Init::normal(1.0));
    if (tied) {
      layout.borrow(head, embed);
      classes = table;
    } else {
      classes = layout.add(head, "head.weight", {kVocab, kDim}, nn::Init::normal(0.6));
      layout.mark_row_matrix(head, classes);
    }
  }
  at::Tensor hidden(const at::Tensor& ids, nn::UnitRunner& runner) const {
    const auto x = runner.run(
        embed, {ids}, [this](const nn::Tensors& in) -> nn::Tensors { return {nn::embedding_by_rows(*table, in[0])}; });
    return runner.run(middle, x, [this](const nn::Tensors& in) -> nn::Tensors {
      return {at::relu(at::linear(in[0], body->value()))};
    })[0];
  }
  at::Tensor loss(const at::Tensor& ids, nn::UnitRunner& runner) const {
    const at::Tensor targets = at::remainder(ids * 5 + 2, kVocab);
    return runner.run(head, {hidden(ids, runner), targets}, [this](const nn::Tensors& in) -> nn::Tensors {
      return {nn::linear_cross_entropy_sum_by_rows(in[0] * scale->value(), *classes, in[1])};
    })[0];
  }
  at::Tensor logits(const at::Tensor& ids, nn::UnitRunner& runner) const {
    return runner.run(head, {hidden(ids, runner)}, [this](const nn::Tensors& in) -> nn::Tensors {
      return {nn::linear_by_rows(in[0] * scale->value(), *classes)};
    })[0];
  }
};

at::Tensor ids_of(int rank, int step) {  // none at all on one rank of some steps
  const std::int64_t count = (rank + step) % 3 == 1 ? 0 : 4 + rank;
  return at::remainder(at::arange(count) * 3 + rank + step, kVocab);
}

bool reached(const nn::Unit& unit) {  // by gradients
  return unit.name != "embed";
}

struct RowsTest : testing::TestWithParam<bool> {
  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> world = comm::make_mpi(env);
  std::int64_t sent(std::string_view kind) const {
    const auto found = world->counters().find(kind);
    return found == world->counters().end() ? 0 : found->second.sent;
  }
};

std::vector<EngineConfig> configs() {
  std::vector<EngineConfig> out;
  for (const bool recompute : {true, false}) {
    for (const int prefetch : {0, 1, 3}) {
      for (const std::int64_t keep : {0, 400}) {
        for (const std::int64_t block : {std::int64_t{20} * kDim * 4, std::int64_t{0}}) {
          EngineConfig c;
          c.policy.recompute = recompute;
          c.prefetch = prefetch;
          c.keep_bytes = keep;
          c.row_block_bytes = block;
          out.push_back(c);
        }
      }
    }
  }
  return out;
}

TEST_P(RowsTest, TrainsAsTheWholeModelDoesAndAsThePlanSays) {
  RowModel local(GetParam());
  nn::materialize(local.layout, 11);
  nn::LocalRunner runner;
  for (const auto& config : configs()) {
    SCOPED_TRACE(testing::Message() << "recompute " << config.policy.recompute << " prefetch " << config.prefetch
                                    << " keep " << config.keep_bytes << " block " << config.row_block_bytes);
    const RowModel sharded(GetParam());
    Engine engine(sharded.layout, comm::Fabric::on_host(*world), config);
    engine.load(toy::NoTensors(), toy::drawn());
    engine.settle();
    const auto plan = make_plan(sharded.layout, {world->size(), 1, config, 1, reached});
    for (int step = 0; step < 3; ++step) {
      local.body->value().mutable_grad() = at::Tensor();
      at::Tensor own;
      for (int rank = 0; rank < world->size(); ++rank) {
        const at::Tensor loss = local.loss(ids_of(rank, step), runner);
        loss.backward();
        if (rank == world->rank()) own = loss.detach();
      }
      world->reset_counters();
      engine.reset_peaks();
      engine.begin_step();
      engine.begin_pass(Pass::train);
      const at::Tensor loss = sharded.loss(ids_of(world->rank(), step), engine);
      EXPECT_NEAR(loss.item<double>(), own.item<double>(), 1e-5 * own.item<double>() + 1e-6);
      engine.backward(loss);
      engine.end_pass();
      engine.reduce_held();
      if (step == 2) {  // the first records the order
        EXPECT_EQ(plan.gathered_sent, sent("all_gather"));
        EXPECT_EQ(plan.reduced_sent, sent("reduce_scatter"));
        EXPECT_EQ(plan.memory.gathered_peak, engine.memory().gathered_peak);
      }
      engine.with_gradients(sharded.middle, [&](const nn::ParamState&, const at::Tensor& grad) {
        EXPECT_TRUE(grad.allclose(local.body->value().grad(), 1e-4, 1e-5));
      });
      engine.check_gradients();
      engine.end_step();
    }
    EXPECT_EQ(plan.memory.frozen, engine.memory().frozen);
  }
}

TEST_P(RowsTest, ABlockIsAllThatIsEverGathered) {
  const RowModel model(GetParam());
  EngineConfig config;
  config.prefetch = 0;
  config.row_block_bytes = 20 * kDim * 4;
  const auto plan = make_plan(model.layout, {world->size(), 1, config, 1, reached});
  config.row_block_bytes = 1 << 20;
  const auto whole = make_plan(model.layout, {world->size(), 1, config, 1, reached});
  if (world->size() == 1) {
    EXPECT_EQ(plan.gathered_sent, 0);
    return;
  }
  EXPECT_LT(plan.memory.gathered_peak, whole.memory.gathered_peak);
  EXPECT_GE(plan.gathered_sent, whole.gathered_sent);  // by padding alone
}

TEST_P(RowsTest, LogitsAndExportSeeAllRows) {
  RowModel local(GetParam());
  nn::materialize(local.layout, 11);
  nn::LocalRunner runner;
  const RowModel sharded(GetParam());
  EngineConfig config;
  config.row_block_bytes = 15 * kDim * 4;
  Engine engine(sharded.layout, comm::Fabric::on_host(*world), config);
  engine.load(toy::NoTensors(), toy::drawn());
  engine.settle();
  engine.begin_step();
  for (const Pass pass : {Pass::eval, Pass::eval, Pass::free_order}) {
    const at::NoGradGuard no_grad;
    engine.begin_pass(pass);
    const auto ids = ids_of(world->rank(), 2);
    EXPECT_TRUE(sharded.logits(ids, engine).allclose(local.logits(ids, runner), 1e-5, 1e-6));
    engine.end_pass();
  }
  engine.end_step();
  engine.with_gathered(sharded.embed, true, [&] { EXPECT_TRUE(sharded.table->value().equal(local.table->value())); });
  engine.with_gathered(sharded.head, true, [&] {
    EXPECT_TRUE(sharded.classes->value().equal(local.classes->value()));
    EXPECT_TRUE(sharded.scale->value().equal(local.scale->value()));
  });
  EXPECT_FALSE(sharded.table->by_rows());
}

TEST_P(RowsTest, OneDigestWhateverTheBlocks) {
  std::uint64_t want = 0;
  for (const std::int64_t rows : {13, 40, 1000}) {
    const RowModel model(GetParam());
    EngineConfig config;
    config.row_block_bytes = rows * kDim * 4;
    Engine engine(model.layout, comm::Fabric::on_host(*world), config);
    engine.load(toy::NoTensors(), toy::drawn());
    engine.settle();
    if (want == 0) want = engine.frozen_digest();
    EXPECT_EQ(engine.frozen_digest(), want);
  }
}

INSTANTIATE_TEST_SUITE_P(Head, RowsTest, testing::Values(false, true),
                         [](const auto& which) { return which.param ? "tied" : "own"; });

}  // namespace
}  // namespace tessera::shard
