#include "tessera/adapt/lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/support.hpp"
#include "support/live_bytes.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/dropout.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::adapt {
namespace {

using testing_support::distance;

struct TwoLayers {
  nn::ModelLayout layout;
  nn::UnitId unit = layout.add_unit("model.layers.0");
  nn::Scope scope{layout, unit, "model.layers.0"};
  nn::Linear q{scope.child("self_attn"), "q_proj", 7, 5, false};
  nn::Linear tower{nn::Scope(layout, unit, "model.vision_tower"), "q_proj", 7, 5, false};
};

LoraConfig rank_three() {
  LoraConfig config;
  config.rank = 3;
  config.alpha = 12;
  config.dropout = 0;
  config.targets = {"q_proj"};
  return config;
}

TEST(Lora, AddsTheScaledProductOnItsTargets) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, rank_three());
  nn::materialize(m.layout, 1);
  const at::Tensor b = at::randn({5, 3});
  lora.layers.at(0).b->bind(b);
  const at::Tensor x = at::randn({2, 4, 7});
  const at::Tensor plain = x.matmul(m.q.state().weight->value().t());
  const at::Tensor wanted = plain.add(x.matmul(lora.layers[0].a->value().t()).matmul(b.t()), 4.0);
  EXPECT_LT(distance(m.q(x, {}), wanted), 1e-5);
}

TEST(Lora, StartsWithoutEffect) {
  TwoLayers m;
  attach_lora(m.layout, rank_three());
  nn::materialize(m.layout, 1);
  const at::Tensor x = at::randn({2, 4, 7});
  EXPECT_LT(distance(m.q(x, {}), x.matmul(m.q.state().weight->value().t())), 1e-6);
}

TEST(Lora, ABiasOfItsOwnIsForLayersWithOne) {
  TwoLayers m;
  LoraConfig config = rank_three();
  config.bias = true;
  EXPECT_THROW(attach_lora(m.layout, config), RequestError);
  nn::ModelLayout layout;
  const nn::Linear q(nn::Scope(layout, layout.add_unit("u"), "m"), "q_proj", 7, 5, true);
  const Lora lora = attach_lora(layout, config);
  nn::materialize(layout, 1);
  const at::Tensor bias = at::randn({5}), x = at::randn({2, 7});
  const at::Tensor without = q(x, {});
  lora.layers.at(0).bias->bind(bias);
  EXPECT_LT(distance(q(x, {}), without.add(bias, 4.0)), 1e-5);
  EXPECT_LT(distance(merged_bias(q.state().bias->value(), bound_tensors(lora.layers[0])),
                     q.state().bias->value().add(bias, 4.0)),
            1e-6);
}

TEST(Lora, ABiasOfItsOwnIsForPlainLora) {
  TwoLayers m;
  LoraConfig config = rank_three();
  config.bias = config.dora = true;
  EXPECT_THROW(attach_lora(m.layout, config), RequestError);
}

TEST(Lora, KeepsTheLowRankProductAloneForBackward) {
  nn::ModelLayout layout;
  const nn::Linear layer(nn::Scope(layout, layout.add_unit("unit"), ""), "q_proj", 96, 80, true);
  attach_lora(layout, rank_three());
  for (const nn::Param& param : layout.params()) param->trainable = layout.unit(param->unit).fused;
  nn::materialize(layout, 1);
  const at::Tensor x = at::randn({5, 40, 96}).requires_grad_();
  const testing_support::LiveBytes live;
  const at::Tensor y = layer(x, {});
  constexpr std::int64_t kProduct = 5 * 40 * 3 * 4, kScalars = 256;
  EXPECT_GE(live.count() - static_cast<std::int64_t>(y.nbytes()), kProduct);
  EXPECT_LE(live.count() - static_cast<std::int64_t>(y.nbytes()), kProduct + kScalars);
}

TEST(Lora, LeavesLisasTowersAlone) {
  TwoLayers m;
  EXPECT_EQ(lora_targets(m.layout, rank_three()), std::vector<std::string>{"model.layers.0.self_attn.q_proj"});
}

TEST(Lora, LivesInOneFusedUnitAndMarksWhatItSitsOn) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, rank_three());
  EXPECT_TRUE(m.layout.unit(lora.unit).fused);
  EXPECT_TRUE(m.layout.unit(m.unit).adapted);
  EXPECT_EQ(m.layout.trainable_elements(), 3 * 7 + 5 * 3);
}

TEST(Lora, ScalingIsAlphaOverRankOrItsRoot) {
  LoraConfig config = rank_three();
  EXPECT_DOUBLE_EQ(config.scaling(), 4.0);
  config.rslora = true;
  EXPECT_DOUBLE_EQ(config.scaling(), 12.0 / std::sqrt(3.0));
}

TEST(Lora, MergedRowsAreTheRowsOfTheMergedWeight) {
  const at::Tensor w = at::randn({6, 4}), a = at::randn({2, 4}), b = at::randn({6, 2});
  const at::Tensor whole = w.add(b.matmul(a), 0.5);
  EXPECT_LT(distance(merged_rows(w.narrow(0, 2, 3), {a, b, {}, 0.5}, 2), whole.narrow(0, 2, 3)), 1e-5);
}

TEST(Lora, PatternsSetRankAndAlphaOfALayer) {
  TwoLayers m;
  LoraConfig config = rank_three();
  config.exclude.clear();
  config.rslora = true;
  config.rank_pattern = {{"self_attn.q_proj", 2}, {"q_proj", 4}};
  config.alpha_pattern = {{"^model.vision_tower.q_proj", 6}};
  const Lora lora = attach_lora(m.layout, config);
  ASSERT_EQ(lora.layers.size(), 2U);
  EXPECT_EQ(lora.layers[0].a->shape, (std::vector<std::int64_t>{2, 7}));
  EXPECT_DOUBLE_EQ(lora.layers[0].scaling, 12 / std::sqrt(2.0));
  EXPECT_EQ(lora.layers[1].b->shape, (std::vector<std::int64_t>{5, 4}));
  EXPECT_DOUBLE_EQ(lora.layers[1].scaling, 6 / std::sqrt(4.0));
}

TEST(Lora, BeginsAsItsInitialisationSays) {
  for (const auto init : {LoraInit::kaiming, LoraInit::gaussian, LoraInit::both}) {
    nn::ModelLayout layout;
    const nn::Linear wide(nn::Scope(layout, layout.add_unit("u"), "u"), "q_proj", 2000, 100, false);
    LoraConfig config = rank_three();
    config.rank = 16;
    config.init = init;
    const Lora lora = attach_lora(layout, config);
    nn::materialize(layout, 3);
    const at::Tensor a = lora.layers[0].a->value(), b = lora.layers[0].b->value();
    const double bound = 1 / std::sqrt(2000.0);
    const double deviation = init == LoraInit::gaussian ? 1.0 / 16 : bound / std::sqrt(3.0);
    EXPECT_NEAR(a.std().item<double>() / deviation, 1, 0.03);
    EXPECT_EQ(a.abs().max().item<double>() <= bound, init != LoraInit::gaussian);
    EXPECT_EQ(b.abs().max().item<double>() > 0, init == LoraInit::both);
  }
}

LoraConfig dora() {
  LoraConfig config = rank_three();
  config.dora = true;
  return config;
}

TEST(Dora, StartsWithoutEffectWhereMagnitudesAreTheRowsLengths) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, dora());
  nn::materialize(m.layout, 1);
  const LoraLayer& layer = lora.layers.at(0);
  const at::Tensor w = m.q.state().weight->value().detach();
  layer.magnitude->bind(row_norms(w, layer.a->value(), layer.b->value(), layer.scaling));
  EXPECT_LT(distance(layer.magnitude->value(), w.square().sum(1).sqrt()), 1e-6);
  const at::Tensor x = at::randn({2, 4, 7});
  EXPECT_LT(distance(m.q(x, {}), x.matmul(w.t())), 1e-5);
}

TEST(Dora, ScalesTheRowsOfTheSumToItsMagnitudesAlsoMerged) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, dora());
  nn::materialize(m.layout, 1);
  const LoraLayer& layer = lora.layers.at(0);
  layer.b->bind(at::randn({5, 3}));
  layer.magnitude->bind(at::randn({5}));
  const at::Tensor w = m.q.state().weight->value();
  const at::Tensor sum = w.add(layer.b->value().matmul(layer.a->value()), layer.scaling).detach();
  const at::Tensor wanted = sum * (layer.magnitude->value() / sum.square().sum(1).sqrt()).unsqueeze(1);
  const at::Tensor x = at::randn({2, 4, 7});
  EXPECT_LT(distance(m.q(x, {}), x.matmul(wanted.t())), 1e-4);
  const LoraTensors tensors{layer.a->value(), layer.b->value(), layer.magnitude->value(), layer.scaling};
  EXPECT_LT(distance(merged_rows(w.narrow(0, 1, 3), tensors, 1), wanted.narrow(0, 1, 3)), 1e-5);
}

TEST(Dora, DropoutActsOnWhatIsAdded) {
  TwoLayers m;
  LoraConfig config = dora();
  config.dropout = 0.5;
  const Lora lora = attach_lora(m.layout, config);
  nn::materialize(m.layout, 1);
  const at::Tensor x = at::randn({2, 4, 7});
  nn::ForwardContext ctx{.seed = 1, .step = 2, .training = true, .sample_keys = {3, 4}};
  const LoraLayer& layer = lora.layers.at(0);
  const at::Tensor w = m.q.state().weight->value();
  const at::Tensor scale = layer.magnitude->value() / w.square().sum(1).sqrt();
  const at::Tensor dropped = nn::dropout(x, 0.5, layer.target->name, ctx);
  const at::Tensor wanted = x.matmul(w.t()) + dropped.matmul(w.t()) * (scale - 1);  // B is zero
  EXPECT_LT(distance(m.q(x, ctx), wanted), 1e-5);
}

TEST(Dora, RowLengthsAreThoseOfTheWholeSumAcrossBlocks) {
  const at::Tensor w = at::randn({700, 3000}), a = at::randn({2, 3000}), b = at::randn({700, 2});
  const at::Tensor whole = w.add(b.matmul(a), 0.5).square().sum(1).sqrt();
  EXPECT_LT(distance(row_norms(w, a, b, 0.5) / whole, at::ones({700})), 1e-5);
}

std::string error_of(const LoraConfig& config) {
  TwoLayers m;
  try {
    attach_lora(m.layout, config);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(Lora, NamesWhatIsWrongWithItsSettings) {
  LoraConfig config = rank_three();
  config.targets = {"q_prij"};
  EXPECT_NE(error_of(config).find("'q_proj'"), std::string::npos);
  config = rank_three();
  config.rank = 6;
  EXPECT_NE(error_of(config).find("rank 6"), std::string::npos);
  config.rank = 0;
  EXPECT_NE(error_of(config).find("rank 0"), std::string::npos);
  config = rank_three();
  config.rank_pattern = {{"q_proj", 0}};
  EXPECT_NE(error_of(config).find("rank 0"), std::string::npos);
  config.rank_pattern = {{"q_prij", 2}};
  EXPECT_NE(error_of(config).find("rank_pattern 'q_prij'"), std::string::npos);
  config = rank_three();
  config.dropout = 1.0;
  EXPECT_NE(error_of(config).find("dropout"), std::string::npos);
}

}  // namespace
}  // namespace tessera::adapt
