#include "tessera/nn/layers.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::nn {
namespace {

using testing_support::distance;

struct Fixture {
  ModelLayout layout;
  UnitId unit = layout.add_unit("u");
  Scope scope{layout, unit, "m"};
};

TEST(Linear, IsMatrixProductAndBiasUnderItsNames) {
  Fixture f;
  const Linear linear(f.scope, "fc", 5, 3, true);
  materialize(f.layout, 1);
  const at::Tensor x = at::randn({2, 4, 5});
  const at::Tensor wanted =
      x.matmul(f.layout.find("m.fc.weight")->value().t()).add(f.layout.find("m.fc.bias")->value());
  EXPECT_LT(distance(linear(x, {}), wanted), 1e-5);
  ASSERT_EQ(f.layout.layers().size(), 1U);
  EXPECT_EQ(f.layout.layers()[0]->name, "m.fc");
}

TEST(Linear, NamesItsWeightWhenItsUnitIsNotGathered) {
  Fixture f;
  const Linear linear(f.scope, "fc", 5, 3, false);
  try {
    linear(at::randn({1, 5}), {});
    FAIL() << "no error";
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find("m.fc.weight"), std::string::npos);
  }
}

TEST(Linear, ATiedOneUsesTheEmbeddingsWeight) {
  Fixture f;
  const Embedding embedding(f.scope, "embed", 7, 4, Init::normal(1.0));
  const Linear head = Linear::tied("head", embedding.weight());
  materialize(f.layout, 1);
  const at::Tensor x = at::randn({2, 4});
  EXPECT_LT(distance(head(x, {}), x.matmul(embedding.weight()->value().t())), 1e-5);
  EXPECT_EQ(f.layout.total_elements(), 28);
}

/// Doubles what it is given.
class Doubling final : public LayerAdapter {
 public:
  at::Tensor apply(const at::Tensor&, const at::Tensor& base, const ForwardContext&) const override {
    return base.mul(2.0);
  }
};

TEST(Layers, EveryKindIsListedAndPassesItsOutputThroughItsAdapter) {
  Fixture f;
  const Embedding table(f.scope, "table", 7, 4, Init::normal(1.0));
  const Conv2d conv(f.scope, "conv", {.in = 2, .out = 3, .kernel = 2, .stride = 2});
  materialize(f.layout, 1);
  ASSERT_EQ(f.layout.layers().size(), 2U);
  EXPECT_EQ(f.layout.layers()[0]->kind, LayerKind::embedding);
  EXPECT_EQ(f.layout.layers()[1]->kind, LayerKind::conv2d);
  const at::Tensor ids = at::tensor({6, 0, 3}, at::kLong), x = at::randn({1, 2, 4, 4});
  const at::Tensor rows = table(ids), picture = conv(x);
  for (const auto& layer : f.layout.layers()) layer->adapter = std::make_shared<Doubling>();
  EXPECT_LT(distance(table(ids), rows * 2.0), 1e-6);
  EXPECT_LT(distance(conv(x), picture * 2.0), 1e-6);
}

TEST(Linear, ItsCrossEntropyIsThatOfItsOutput) {
  for (const int kind : {0, 1, 2}) {  // plain, with a bias, with an adapter
    Fixture f;
    const Linear head(f.scope, "head", 5, 7, kind == 1);
    if (kind == 2) f.layout.layers()[0]->adapter = std::make_shared<Doubling>();
    materialize(f.layout, 1);
    const at::Tensor x = at::randn({4, 5}), targets = at::tensor({6, 0, 3, 3}, at::kLong);
    const at::Tensor wanted = at::cross_entropy_loss(head(x, {}), targets, {}, at::Reduction::Sum);
    EXPECT_LT(distance(head.cross_entropy_sum(x, targets, {}), wanted), 1e-5) << kind;
    const at::Tensor smoothed = at::cross_entropy_loss(head(x, {}), targets, {}, at::Reduction::Sum, -100, 0.2);
    EXPECT_LT(distance(head.cross_entropy_sum(x, targets, {}, 0.2), smoothed), 1e-5) << kind;
  }
}

TEST(RmsNorm, DividesByTheRootMeanSquare) {
  Fixture f;
  const RmsNorm norm(f.scope, "norm", 6, 1e-3);
  materialize(f.layout, 1);
  const at::Tensor x = at::randn({3, 6});
  EXPECT_LT(distance(norm(x), x.div(x.square().mean(-1, true).add(1e-3).sqrt())), 1e-5);
}

TEST(LayerNorm2d, NormalisesOverChannels) {
  Fixture f;
  const LayerNorm2d norm(f.scope, "norm", 5, 1e-6);
  materialize(f.layout, 1);
  const at::Tensor y = norm(at::randn({2, 5, 3, 4}));
  EXPECT_LT(y.mean(1).abs().max().item<double>(), 1e-5);
  EXPECT_LT(y.var(1, false).sub(1.0).abs().max().item<double>(), 1e-3);
}

TEST(Convolutions, HaveThePyTorchShapes) {
  Fixture f;
  const Conv2d down(f.scope, "down", {.in = 3, .out = 4, .kernel = 2, .stride = 2});
  const ConvTranspose2d up(f.scope, "up", {.in = 4, .out = 3, .kernel = 2, .stride = 2});
  materialize(f.layout, 1);
  const at::Tensor x = at::randn({1, 3, 6, 8});
  const at::Tensor small = down(x);
  EXPECT_LT(distance(small, at::conv2d(x, f.layout.find("m.down.weight")->value(),
                                       f.layout.find("m.down.bias")->value(), {2, 2})),
            1e-6);
  EXPECT_EQ(up(small).sizes(), x.sizes());
  EXPECT_EQ(f.layout.find("m.up.weight")->shape, (std::vector<std::int64_t>{4, 3, 2, 2}));
}

TEST(LayerNorm, StartsAsIdentityOfNormalisedInput) {
  Fixture f;
  const LayerNorm norm(f.scope, "norm", 8, 1e-5);
  materialize(f.layout, 1);
  const at::Tensor y = norm(at::randn({4, 8}));
  EXPECT_LT(y.mean(-1).abs().max().item<double>(), 1e-5);
}

}  // namespace
}  // namespace tessera::nn
