#include "tessera/nn/weighted.hpp"

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "nn/support.hpp"

namespace tessera::nn {
namespace {

using testing_support::distance;

at::Tensor leaf(at::IntArrayRef shape, bool trained = true) {
  return at::randn(shape).set_requires_grad(trained);
}

at::Tensor twin(const at::Tensor& t) {
  return t.detach().clone().set_requires_grad(t.requires_grad());
}

TEST(WeightedLinear, HasTheGradientsOfLibTorchs) {
  for (const bool frozen : {false, true}) {
    const at::Tensor x = leaf({2, 3, 5}), w = leaf({7, 5}, !frozen), b = leaf({7}, !frozen);
    const at::Tensor x2 = twin(x), w2 = twin(w), b2 = twin(b), g = at::randn({2, 3, 7});
    const at::Tensor y = nn::linear(x, w, b), y2 = at::linear(x2, w2, b2);
    EXPECT_EQ(distance(y, y2), 0);
    torch::autograd::backward({y}, {g});
    torch::autograd::backward({y2}, {g});
    EXPECT_LT(distance(x.grad(), x2.grad()), 1e-6);
    if (frozen) continue;
    EXPECT_LT(distance(w.grad(), w2.grad()), 1e-6);
    EXPECT_LT(distance(b.grad(), b2.grad()), 1e-6);
  }
}

TEST(WeightedLinear, AddsToTheGradientThatIsThere) {
  const at::Tensor x = at::randn({4, 5}), g = at::randn({4, 3});
  at::Tensor w = leaf({3, 5});
  const at::Tensor flat = at::ones({15});
  w.mutable_grad() = flat.view({3, 5});  // a view of a buffer, as the engine gives it
  torch::autograd::backward({nn::linear(x, w, std::nullopt)}, {g});
  EXPECT_EQ(w.grad().data_ptr(), flat.data_ptr());
  EXPECT_LT(distance(flat.view({3, 5}), g.t().mm(x).add(1)), 1e-6);
}

TEST(WeightedLinear, GradientsThatAreAskedForByNameAreNotAddedToTheWeights) {
  const at::Tensor x = at::randn({4, 5});
  at::Tensor w = leaf({3, 5});
  w.mutable_grad() = at::zeros({3, 5});
  const auto got = torch::autograd::grad({nn::linear(x, w, std::nullopt).sum()}, {w});
  EXPECT_LT(distance(got.at(0), x.sum(0).expand({3, 5})), 1e-6);
  EXPECT_EQ(w.grad().abs().sum().item<float>(), 0);
}

TEST(WeightedEmbedding, AddsRowsThatOccurTwice) {
  const at::Tensor ids = at::tensor({3, 0, 3, 1}, at::kLong).view({2, 2}), g = at::randn({2, 2, 6});
  at::Tensor w = leaf({5, 6});
  const at::Tensor w2 = twin(w);
  w.mutable_grad() = at::ones({5, 6});
  const at::Tensor y = nn::embedding(w, ids), y2 = at::embedding(w2, ids);
  EXPECT_EQ(distance(y, y2), 0);
  torch::autograd::backward({y}, {g});
  torch::autograd::backward({y2}, {g});
  EXPECT_LT(distance(w.grad().sub(1), w2.grad()), 1e-6);
  w.mutable_grad() = at::Tensor();
  torch::autograd::backward({nn::embedding(w, ids)}, {g});
  EXPECT_LT(distance(w.grad(), w2.grad()), 1e-6);
}

struct HeadCase {
  std::int64_t rows, width, classes;
  bool frozen;
};

TEST(LinearCrossEntropy, IsTheCrossEntropyOfTheProduct) {
  // Several chunks of rows (of 32 MiB of logits), fewer and more rows than features, a frozen weight, one row, none.
  for (const HeadCase& c : {HeadCase{11, 16, 9, false}, HeadCase{33, 5, 600011, false}, HeadCase{33, 5, 600011, true},
                            HeadCase{37, 40, 400009, false}, HeadCase{1, 3, 2, false}, HeadCase{0, 4, 3, false}}) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.width << " x " << c.classes << " frozen " << c.frozen);
    at::Tensor x = leaf({c.rows, c.width}), w = leaf({c.classes, c.width}, !c.frozen);
    const at::Tensor x2 = twin(x), w2 = twin(w), targets = at::randint(c.classes, {c.rows}, at::kLong);
    const at::Tensor loss = linear_cross_entropy_sum(x, w, targets);
    const at::Tensor loss2 = at::cross_entropy_loss(at::linear(x2, w2), targets, {}, at::Reduction::Sum);
    EXPECT_NEAR(loss.item<double>(), loss2.item<double>(), 1e-6 * std::abs(loss2.item<double>()) + 1e-12);
    torch::autograd::backward({loss.mul(0.25)}, {});
    torch::autograd::backward({loss2.mul(0.25)}, {});
    if (c.rows == 0) {
      EXPECT_EQ(loss.item<float>(), 0);
      continue;
    }
    EXPECT_LT(distance(x.grad(), x2.grad()), 1e-6);
    if (!c.frozen) {
      EXPECT_LT(distance(w.grad(), w2.grad()), 1e-6);
    }
    EXPECT_LT(distance(linear_cross_entropy_sum(x.detach(), w.detach(), targets), loss), 1e-12);
  }
}

TEST(LinearCrossEntropy, AddsToTheGradientOfItsWeight) {
  at::Tensor w = leaf({9, 16});
  const at::Tensor x = at::randn({5, 16}), w2 = twin(w), targets = at::randint(9, {5}, at::kLong);
  w.mutable_grad() = at::ones({9, 16});
  torch::autograd::backward({linear_cross_entropy_sum(x, w, targets)}, {});
  torch::autograd::backward({at::cross_entropy_loss(at::linear(x, w2), targets, {}, at::Reduction::Sum)}, {});
  EXPECT_LT(distance(w.grad().sub(1), w2.grad()), 1e-5);
}

}  // namespace
}  // namespace tessera::nn
