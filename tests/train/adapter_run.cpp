#include "train/adapter_run.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

namespace tessera::testing_support {

AdapterRun::AdapterRun(const std::string& golden, const std::vector<std::string>& adapters, const Attach& attach)
    : comm_(comm::make_mpi(env_)),
      folder_(golden_model(golden)),
      inputs_(io::read_tensors(folder_ / "inputs.safetensors")) {
  models::ForwardRequest request;
  request.model = folder_;
  for (const auto& name : adapters) request.adapters.push_back(folder_ / name);
  request.grads = "trainable";
  model_ = models::ForwardModel::open(request);
  io::SourcePtr weights(io::SourcePtr(), &model_->weights());
  if (attach) weights = std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{attach(*model_), weights});
  shard::EngineConfig config;
  if (const auto* lora = model_->lora(); lora != nullptr && lora->config.adalora) config.importance = lora->unit;
  for (const nn::Unit& unit : model_->layout().units()) {
    // All logits are differentiated here, which needs a frozen head whole.
    config.units.push_back({.frozen = unit.row_matrix ? shard::Placement::resident : shard::Placement::world});
  }
  engine_ = std::make_unique<shard::Engine>(model_->layout(), comm::Fabric::on_host(*comm_), config);
  engine_->load(*weights, {});
  engine_->settle();
}

at::Tensor AdapterRun::step(shard::Optimizer& optimizer, const AroundUpdate& around) {
  engine_->begin_step();
  engine_->begin_pass(shard::Pass::train);
  const auto result = model_->run(inputs_, *engine_);
  engine_->backward(result.objective / static_cast<double>(comm_->size()));
  engine_->end_pass();
  engine_->reduce_held();
  engine_->check_gradients();
  around.before();
  optimizer.step(around.grad_scale);
  around.after();
  engine_->end_step();
  return result.objective.detach();
}

shard::Optimizer AdapterRun::optimizer() {
  return {*engine_, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8}, {{"all", 0.02, 0.0}}, [](const nn::ParamState&) {
            return std::size_t{0};
          }};
}

int AdapterRun::expect_trained(const io::TensorMap& expected) {
  int compared = 0;
  for (std::size_t unit = 0; unit < model_->layout().units().size(); ++unit) {
    engine_->with_gathered(static_cast<nn::UnitId>(unit), true, [&] {
      for (const nn::Param& param : model_->layout().units()[unit].params) {
        if (!param->trainable) continue;
        // AdamW's first steps go by the sign of the gradient; where it is nearly zero, rounding shows. A step is 0.02.
        EXPECT_TRUE(close(param->value(), expected.at(model_->file_name(*param)), 1e-3, 1e-3)) << param->name;
        ++compared;
      }
    });
  }
  return compared;
}

}  // namespace tessera::testing_support
