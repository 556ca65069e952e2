// Steps of training an adapter against PEFT's with torch's AdamW; on as many ranks as this program was started with.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <memory>

#include "models/golden.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/models/forward.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::train {
namespace {

using testing_support::close;
using testing_support::golden_model;

class AdapterSteps : public testing::TestWithParam<const char*> {
 protected:
  AdapterSteps() : comm_(comm::make_mpi(env_)) {
    request_.model = folder_;
    request_.adapters = {folder_ / "adapter"};
    request_.grads = "trainable";
    model_ = models::ForwardModel::open(request_);
    shard::EngineConfig config;
    for (const nn::Unit& unit : model_->layout().units()) {
      // All logits are differentiated here, which needs a frozen head whole.
      config.units.push_back({.frozen = unit.row_matrix ? shard::Placement::resident : shard::Placement::world});
    }
    engine_ = std::make_unique<shard::Engine>(model_->layout(), comm::Fabric::on_host(*comm_), config);
    engine_->load(model_->weights(), {});
    engine_->settle();
  }

  /// Every rank has the whole batch, so that each loss counts one part in the number of ranks.
  at::Tensor step(shard::Optimizer& optimizer) {
    engine_->begin_step();
    engine_->begin_pass(shard::Pass::train);
    const auto result = model_->run(inputs_, *engine_);
    engine_->backward(result.objective / static_cast<double>(comm_->size()));
    engine_->end_pass();
    engine_->reduce_held();
    engine_->check_gradients();
    optimizer.step(1.0);
    engine_->end_step();
    return result.objective.detach();
  }

  comm::MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm_;
  std::filesystem::path folder_ = golden_model(GetParam());
  models::ForwardRequest request_;
  io::TensorMap inputs_ = io::read_tensors(folder_ / "inputs.safetensors");
  std::unique_ptr<models::ForwardModel> model_;
  std::unique_ptr<shard::Engine> engine_;
};

TEST_P(AdapterSteps, LossesAndWeightsAreThoseOfPeft) {
  const io::TensorMap expected = io::read_tensors(folder_ / "steps.safetensors");
  const at::Tensor losses = expected.at("losses");
  shard::Optimizer optimizer(*engine_, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8}, {{"all", 0.02, 0.0}},
                             [](const nn::ParamState&) { return std::size_t{0}; });
  for (std::int64_t i = 0; i < losses.size(0); ++i) {
    EXPECT_TRUE(close(step(optimizer).cpu(), losses[i])) << "step " << i;
  }
  EXPECT_GT((losses[0] - losses[-1]).abs().item<double>(), 0.05) << "the steps change nothing";
  std::size_t compared = 0;
  for (std::size_t unit = 0; unit < model_->layout().units().size(); ++unit) {
    engine_->with_gathered(static_cast<nn::UnitId>(unit), true, [&] {
      for (const nn::Param& param : model_->layout().units()[unit].params) {
        if (!param->trainable) continue;
        // AdamW's first steps go by the sign of the gradient; where it is nearly zero, rounding shows.
        EXPECT_TRUE(close(param->value(), expected.at(model_->file_name(*param)), 1e-3, 1e-4)) << param->name;
        ++compared;
      }
    });
  }
  EXPECT_EQ(compared + 1, expected.size());
}

INSTANTIATE_TEST_SUITE_P(Train, AdapterSteps,
                         testing::Values("lora_regex_patterns", "lora_layer_indices", "lora_modules_to_save",
                                         "dora_all_linear", "dora_rslora_some"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace tessera::train
