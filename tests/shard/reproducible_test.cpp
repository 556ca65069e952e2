// Reproducible mode: the same bits for any number of ranks, for every way of running a step.
#include <gtest/gtest.h>

#include "shard/toy_training.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

using toy::ToyModel;
using toy::Trained;
constexpr int kMicro = 12;  // divides by 1, 2, 3, 4, 6
constexpr int kSteps = 20;

struct Reproducible : testing::Test {
  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> world = comm::make_mpi(env);

  // The same training on 1, 2, … ranks of this job; every result must equal that of one rank.
  void compare(bool with_adapter, bool everything, const EngineConfig& config, int layer_major_on_one_rank = 1,
               int steps = 4, bool tied = false) {
    Trained alone;
    for (int ranks = 1; ranks <= world->size(); ++ranks) {
      if (kMicro % ranks != 0) continue;
      const auto part = toy::first_ranks(*world, ranks);
      if (!part) continue;
      ToyModel model(with_adapter, tied);
      for (const auto& p : model.layout.params()) p->trainable = p->trainable || everything;
      auto mine = config;
      if (ranks == 1) mine.layer_major = layer_major_on_one_rank;
      const auto result = toy::train(model, comm::Fabric::on_host(*part), mine, steps, kMicro);
      part->close();
      if (ranks == 1) alone = result;
      if (world->rank() != 0) continue;
      EXPECT_EQ(result.weights, alone.weights) << ranks << " ranks";
      EXPECT_EQ(result.losses, alone.losses) << ranks << " ranks";
      EXPECT_EQ(result.norms, alone.norms) << ranks << " ranks";
      EXPECT_LT(result.losses.back(), result.losses.front());  // it did train
    }
    world->barrier();
  }
};

TEST_F(Reproducible, Adapters) {
  compare(true, false, {}, 1, kSteps);
}
TEST_F(Reproducible, EveryWeightTrained) {
  compare(false, true, {}, 1, kSteps);
}
// The table has gradients from two places in each micro-batch; what is summed over the ranks is both at once.
TEST_F(Reproducible, HeadTiedToTheEmbedding) {
  compare(true, true, {}, 1, kSteps, true);
  compare(false, true, {}, kMicro, 4, true);
  compare(true, true, {}, 3, 4, true);
  EngineConfig config;
  config.compute = ComputeType::bf16;
  compare(false, true, config, 4, 4, true);
  config = {};
  config.policy.recompute = false;
  compare(false, true, config, 1, 4, true);
}
TEST_F(Reproducible, WithoutRecomputation) {
  EngineConfig config;
  config.policy.recompute = false;
  compare(true, false, config);
}
TEST_F(Reproducible, LayerByLayerGivesTheBitsOfOneByOne) {
  EngineConfig config;
  compare(true, false, config, 4);
  compare(false, true, config, kMicro);
}
TEST_F(Reproducible, LayerByLayerNeedsRecomputation) {  // one graph would add the micro-batches up by itself
  EngineConfig config;
  config.policy.recompute = false;
  config.layer_major = 2;
  const ToyModel model;
  EXPECT_THROW(Engine(model.layout, comm::Fabric::on_host(*world), config), RequestError);
  config.reproducible = false;
  const auto together = toy::train(model, comm::Fabric::on_host(*world), config, 3, 2 * world->size());
  config.layer_major = 1;
  const auto apart = toy::train(model, comm::Fabric::on_host(*world), config, 3, 2 * world->size());
  for (std::size_t i = 0; i < apart.norms.size(); ++i)
    EXPECT_NEAR(together.norms[i], apart.norms[i], 1e-4 * apart.norms[i]);
}
TEST_F(Reproducible, NarrowerArithmetic) {
  EngineConfig config;
  config.compute = ComputeType::bf16;
  compare(true, false, config);
}

}  // namespace
}  // namespace tessera::shard
