// The optimiser on hand-made gradients; each rank checks the slices that it owns.
#include "tessera/shard/optimizer.hpp"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "shard/toy_model.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

constexpr OptimizerConfig kConfig{0.9, 0.95, 1e-8};

TEST(ClipScale, EqualsTorchsClipGradNorm) {
  // max_norm / (norm + 1e-6), at most 1: torch/nn/utils/clip_grad.py.
  EXPECT_DOUBLE_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_scale(0.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_scale(1.0, 1.0), 1.0 / 1.000001);
  EXPECT_DOUBLE_EQ(clip_scale(8.0, 2.0), 2.0 / 8.000001);
}

TEST(ClipScale, ALimitOfZeroNeverClips) {
  EXPECT_EQ(clip_scale(1e9, 0.0), 1.0);
}

class OptimizerTest : public testing::Test {
 protected:
  OptimizerTest() {
    LoadPolicy policy;
    policy.seed = 5;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(toy::NoTensors(), policy);
  }

  // Value k of a slice gets a gradient of its own, of either sign, never zero.
  void set_gradients() {
    const at::NoGradGuard no_grad;
    for (auto& slice : engine.trained()) {
      float* grad = slice.grad.data_ptr<float>();
      for (std::int64_t k = 0; k < slice.grad.numel(); ++k) {
        grad[k] = (k % 2 == 0 ? 0.25F : -0.5F) * static_cast<float>(1 + k % 5);
      }
    }
  }

  std::vector<at::Tensor> masters() {
    std::vector<at::Tensor> out;
    for (auto& slice : engine.trained()) out.push_back(slice.master.clone());
    return out;
  }

  // Compares one field of every owned piece with `want(param, old master, gradient)`.
  template <class Want>
  void expect(at::Tensor TrainedSlice::*field, const std::vector<at::Tensor>& before, Want&& want) {
    std::size_t i = 0;
    for (auto& slice : engine.trained()) {
      for (const auto& piece : slice.pieces) {
        const auto& param = *slice.layout->tensors()[piece.tensor].param;
        for (std::int64_t k = piece.slice_begin; k < piece.slice_begin + piece.count; ++k) {
          const double expected = want(param, before[i].data_ptr<float>()[k], slice.grad.data_ptr<float>()[k]);
          ASSERT_NEAR((slice.*field).template data_ptr<float>()[k], expected, 2e-6 + 2e-6 * std::abs(expected))
              << param.name << " at " << k;
        }
      }
      ++i;
    }
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  toy::ToyModel model;
  Engine engine{model.layout, comm::Fabric::on_host(*comm), EngineConfig{}};
};

std::size_t head_apart(const nn::ParamState& p) {
  return p.name == "out.weight" ? 1 : 0;
}
std::size_t all_alike(const nn::ParamState&) {
  return 0;
}

TEST_F(OptimizerTest, EachGroupHasItsOwnRateAndDecay) {
  Optimizer optimizer(engine, kConfig, {{"all", 1e-2, 0.0}, {"head", 4e-2, 0.5}}, head_apart);
  set_gradients();
  const auto before = masters();
  optimizer.step(1.0);
  // After the first step both moments are unbiased to g and g*g: every value moves by its group's rate.
  expect(&TrainedSlice::master, before, [](const nn::ParamState& p, double w, double g) {
    const bool head = p.name == "out.weight";
    const double lr = head ? 4e-2 : 1e-2;
    return w * (1 - (head ? lr * 0.5 : 0.0)) - lr * (g > 0 ? 1.0 : -1.0);
  });
}

TEST_F(OptimizerTest, ARateChangedBetweenStepsCountsFromTheNextOne) {
  Optimizer optimizer(engine, kConfig, {{"all", 1e-2, 0.0}}, all_alike);
  set_gradients();
  optimizer.step(1.0);
  const auto before = masters();
  optimizer.groups()[0].lr = 0.0;
  optimizer.step(1.0);
  expect(&TrainedSlice::master, before, [](const nn::ParamState&, double w, double) { return w; });
}

TEST_F(OptimizerTest, TheGradScaleMultipliesEveryGradient) {
  Optimizer optimizer(engine, kConfig, {{"all", 1e-2, 0.0}}, all_alike);
  set_gradients();
  const auto before = masters();
  optimizer.step(0.25);
  // The fused kernel may leave the gradient scaled: moments are compared with the gradient as it was set.
  set_gradients();
  expect(&TrainedSlice::exp_avg, before, [](const nn::ParamState&, double, double g) { return 0.1 * 0.25 * g; });
  expect(&TrainedSlice::exp_avg_sq, before,
         [](const nn::ParamState&, double, double g) { return 0.05 * 0.0625 * g * g; });
}

TEST_F(OptimizerTest, AStepCountThatWasReadBackGoesOn) {
  Optimizer optimizer(engine, kConfig, {{"all", 1e-2, 0.0}}, all_alike);
  optimizer.set_steps(9);
  EXPECT_EQ(optimizer.steps(), 9);
  set_gradients();
  const auto before = masters();
  optimizer.step(1.0);
  EXPECT_EQ(optimizer.steps(), 10);
  // Bias corrections of step 10 on moments of one gradient.
  expect(&TrainedSlice::master, before, [](const nn::ParamState&, double w, double g) {
    const double m = 0.1 * g / (1 - std::pow(0.9, 10));
    const double v = 0.05 * g * g / (1 - std::pow(0.95, 10));
    return w - 1e-2 * m / (std::sqrt(v) + 1e-8);
  });
}

TEST_F(OptimizerTest, AGroupThatDoesNotExistIsAnError) {
  bool owns_some = false;
  for (const auto& slice : engine.trained()) owns_some = owns_some || !slice.pieces.empty();
  ASSERT_TRUE(owns_some || comm->size() > 4);
  if (!owns_some) return;  // this rank has padding alone, and nothing to ask about
  EXPECT_THROW(Optimizer(engine, kConfig, {{"all", 1e-2, 0.0}}, [](const nn::ParamState&) { return std::size_t{1}; }),
               RunError);
}

}  // namespace
}  // namespace tessera::shard
