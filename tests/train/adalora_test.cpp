// AdaLoRA's thirty steps against PEFT's; on as many ranks as this program was started with.
#include "tessera/train/adalora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "tessera/core/error.hpp"
#include "tessera/shard/plan.hpp"
#include "train/adapter_run.hpp"

namespace tessera::train {
namespace {

using testing_support::AdapterRun;
using testing_support::close;
using testing_support::golden_model;

class AdaLoraSteps : public testing::TestWithParam<const char*> {};

TEST_P(AdaLoraSteps, LossesWeightsAndRankPatternAreThoseOfPeft) {
  AdapterRun run(GetParam());
  const io::TensorMap expected = io::read_tensors(run.folder() / "steps.safetensors");
  const at::Tensor losses = expected.at("losses");
  ASSERT_EQ(losses.numel(), 30);
  shard::Optimizer optimizer = run.optimizer();
  AdaLora adalora(run.engine(), *run.model().lora());
  for (std::int64_t i = 0; i < losses.size(0); ++i) {
    const at::Tensor loss =
        run.step(optimizer, {[&] { adalora.before_update(); }, [&] { adalora.allocate(i + 1, 1.0); }});
    EXPECT_TRUE(close(loss.cpu(), losses[i])) << "step " << i + 1;
  }
  EXPECT_EQ(run.expect_trained(expected) + 1, static_cast<int>(expected.size()));
  const auto saved = adapt::open_peft_folder(golden_model(std::string(GetParam()) + "_pruned") / "adapter",
                                             [](const std::string& name) { return std::optional(name); });
  const auto& pattern = run.model().lora()->config.adalora->rank_pattern;
  EXPECT_EQ(pattern, saved.config.adalora->rank_pattern);
  EXPECT_FALSE(pattern.empty());
}

INSTANTIATE_TEST_SUITE_P(Train, AdaLoraSteps, testing::Values("adalora", "adalora_all_linear"),
                         [](const auto& instance) { return std::string(instance.param); });

// Gradients of the adapters' unit, whole.
std::map<std::string, at::Tensor> gradients(AdapterRun& run) {
  std::map<std::string, at::Tensor> out;
  run.engine().with_gradients(run.model().lora()->unit, [&](const nn::ParamState& param, const at::Tensor& gradient) {
    out[param.name] = gradient.clone();
  });
  return out;
}

TEST(AdaLora, TheRegularisersGradientIsThatOfAutograd) {
  AdapterRun run("adalora");
  AdaLora adalora(run.engine(), *run.model().lora());
  run.engine().begin_step();
  run.engine().begin_pass(shard::Pass::train);
  const at::Tensor value = adapt::orthogonality(*run.model().lora());
  const double ranks = run.engine().fabric().size();
  run.engine().backward(value * (adalora.weight() * 2.0 / ranks));
  run.engine().end_pass();
  run.engine().reduce_held();
  const auto wanted = gradients(run);
  run.engine().end_step();
  run.engine().begin_step();
  EXPECT_TRUE(close(value.detach(), at::zeros_like(value.detach()) + adalora.regularise(2.0)));
  const auto found = gradients(run);
  run.engine().end_step();
  ASSERT_EQ(found.size(), wanted.size());
  for (const auto& [name, gradient] : wanted) EXPECT_TRUE(close(found.at(name), gradient)) << name;
}

TEST(AdaLora, ImportanceIsOfTheClippedGradientWhateverTheOptimiserLeaves) {
  AdapterRun run("adalora");
  AdaLora adalora(run.engine(), *run.model().lora());
  shard::Optimizer optimizer = run.optimizer();
  shard::TrainedSlice* own = nullptr;
  for (auto& slice : run.engine().trained()) {
    if (slice.sensitivity.defined()) own = &slice;
  }
  ASSERT_NE(own, nullptr);
  at::Tensor gradient;
  const auto before = [&] {
    adalora.before_update();
    gradient = own->grad.clone();
  };
  run.step(optimizer, {before, [&] { adalora.allocate(1, 0.5); }, 0.5});
  const double weight = 1 - run.model().lora()->config.adalora->beta1;
  EXPECT_TRUE(close(own->sensitivity, (own->master * gradient * 0.5).abs() * weight, 1e-5, 1e-9));
}

TEST(AdaLora, APlanCountsItsAverages) {
  AdapterRun run("adalora");
  shard::Engine& engine = run.engine();
  std::int64_t measured = 0, importance = 0;
  for (const auto& slice : engine.trained()) {
    for (const auto& state : {slice.exp_avg, slice.exp_avg_sq}) measured += static_cast<std::int64_t>(state.nbytes());
    if (!slice.sensitivity.defined()) continue;
    importance += static_cast<std::int64_t>(slice.sensitivity.nbytes() + slice.uncertainty.nbytes());
    EXPECT_EQ(importance, 8 * slice.master.numel());
  }
  EXPECT_GT(importance, 0);
  const auto planned = [&](const shard::EngineConfig& config) {
    return shard::make_plan(engine.layout(), {engine.fabric().size(), 1, config, 1, {}}).memory.optimizer;
  };
  EXPECT_EQ(planned(engine.config()), measured + importance);
  EXPECT_EQ(engine.memory().optimizer, measured + importance);
  auto without = engine.config();
  without.importance = -1;
  EXPECT_EQ(planned(without), measured);
}

TEST(AdaLora, ItsStateIsThePatternAndNothingElse) {
  AdapterRun run("adalora");
  AdaLora adalora(run.engine(), *run.model().lora());
  EXPECT_EQ(adalora.state(), "{}");
  adalora.restore(R"({"model.layers.0.self_attn.q_proj": [true, false, true, true]})");
  EXPECT_EQ(adalora.state(), R"({"model.layers.0.self_attn.q_proj":[true,false,true,true]})");
  for (const char* text : {"", "[]", R"({"layer": 3})"}) EXPECT_THROW(adalora.restore(text), RequestError) << text;
}

}  // namespace
}  // namespace tessera::train
