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
#include "tessera/core/error.hpp"

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

TEST(WeightedLinear, WithoutValueHasTheSameGradients) {
  for (const bool frozen : {false, true}) {
    const at::Tensor x = leaf({2, 3, 5}), w = leaf({7, 5}, !frozen), b = leaf({7}, !frozen);
    const at::Tensor x2 = twin(x), w2 = twin(w), b2 = twin(b), g = at::randn({2, 3, 7});
    const at::Tensor y = nn::linear_without_value(x, w, b), y2 = nn::linear(x2, w2, b2);
    EXPECT_EQ(y.sizes(), y2.sizes());
    EXPECT_EQ(y.abs().sum().item<float>(), 0);
    torch::autograd::backward({y}, {g});
    torch::autograd::backward({y2}, {g});
    EXPECT_EQ(distance(x.grad(), x2.grad()), 0);
    if (frozen) continue;
    EXPECT_EQ(distance(w.grad(), w2.grad()), 0);
    EXPECT_EQ(distance(b.grad(), b2.grad()), 0);
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

at::Tensor in_fp64(const at::Tensor& x) {
  return x.detach().to(at::kDouble).set_requires_grad(true);
}

TEST(LinearCrossEntropy, OfSmoothedLabelsIsPyTorchs) {
  for (const HeadCase& c : {HeadCase{11, 16, 9, false}, HeadCase{300, 5, 40009, true}, HeadCase{300, 5, 40009, false},
                            HeadCase{0, 4, 3, false}}) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.width << " x " << c.classes << " frozen " << c.frozen);
    at::Tensor x = leaf({c.rows, c.width}), w = leaf({c.classes, c.width}, !c.frozen);
    // In fp64: PyTorch adds the smoothed mass up class by class, which in fp32 is the larger error.
    const at::Tensor x2 = in_fp64(x), w2 = in_fp64(w), targets = at::randint(c.classes, {c.rows}, at::kLong);
    const at::Tensor loss = linear_cross_entropy_sum(x, w, targets, 0.3);
    const at::Tensor loss2 = at::cross_entropy_loss(at::linear(x2, w2), targets, {}, at::Reduction::Sum, -100, 0.3);
    EXPECT_NEAR(loss.item<double>(), loss2.item<double>(), 1e-6 * std::abs(loss2.item<double>()) + 1e-12);
    if (c.rows == 0) continue;
    torch::autograd::backward({loss.mul(0.25)}, {});
    torch::autograd::backward({loss2.mul(0.25)}, {});
    EXPECT_LT(distance(x.grad(), x2.grad().to(at::kFloat)), 2e-5);
    if (!c.frozen) {
      EXPECT_LT(distance(w.grad(), w2.grad().to(at::kFloat)), 5e-6);
    }
    EXPECT_GT(distance(linear_cross_entropy_sum(x.detach(), w.detach(), targets), loss), 1e-3);
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

// A matrix whose rows come in blocks, as under the engine.
void bind_in_blocks(ParamState& param, const at::Tensor& matrix, std::int64_t rows) {
  param.bind_rows([matrix, rows](const RowsFn& fn) {
    for (std::int64_t at = 0; at < matrix.size(0); at += rows) {
      fn(matrix.narrow(0, at, std::min(rows, matrix.size(0) - at)).clone(), at);
    }
  });
}

TEST(ByRows, EqualsTheWholeMatrix) {
  struct Case {
    std::int64_t n, width, classes, block;
  };
  for (const Case& c : {Case{11, 16, 9, 4}, Case{33, 5, 9001, 5000}, Case{5, 3, 9001, 100000}, Case{1, 3, 2, 1},
                        Case{9000, 3, 5000, 4096}, Case{0, 4, 3, 2}}) {
    SCOPED_TRACE(testing::Message() << c.n << " x " << c.width << " x " << c.classes << " by " << c.block);
    const at::Tensor w = at::randn({c.classes, c.width}), targets = at::randint(c.classes, {c.n}, at::kLong);
    const at::Tensor x = leaf({c.n, c.width}), x2 = twin(x);
    ParamState param;
    bind_in_blocks(param, w, c.block);
    const at::Tensor loss = linear_cross_entropy_sum_by_rows(x, param, targets);
    const at::Tensor loss2 = at::cross_entropy_loss(at::linear(x2, w), targets, {}, at::Reduction::Sum);
    EXPECT_NEAR(loss.item<double>(), loss2.item<double>(), 2e-6 * std::abs(loss2.item<double>()) + 3e-7);
    torch::autograd::backward({loss.mul(0.25)}, {});
    torch::autograd::backward({loss2.mul(0.25)}, {});
    if (c.n > 0) {
      EXPECT_LT(distance(x.grad(), x2.grad()), 3e-5);  // of values up to 4, in fp32 both
    }
    EXPECT_EQ(distance(embedding_by_rows(param, targets), at::embedding(w, targets)), 0);
    EXPECT_LT(distance(linear_by_rows(x.detach(), param), at::linear(x.detach(), w)), 1e-5);
    EXPECT_THROW(linear_by_rows(x, param), RunError);
    EXPECT_THROW(param.value(), RunError);
  }
}

TEST(ByRows, SmoothsLabelsAsTheWholeMatrixDoes) {
  for (const std::int64_t block : {4, 5000, 100000}) {
    SCOPED_TRACE(block);
    const at::Tensor w = at::randn({9001, 5}), targets = at::randint(9001, {33}, at::kLong);
    const at::Tensor x = leaf({33, 5}), x2 = in_fp64(x);
    ParamState param;
    bind_in_blocks(param, w, block);
    const at::Tensor loss = linear_cross_entropy_sum_by_rows(x, param, targets, 0.3);
    const at::Tensor loss2 =
        at::cross_entropy_loss(at::linear(x2, w.to(at::kDouble)), targets, {}, at::Reduction::Sum, -100, 0.3);
    EXPECT_NEAR(loss.item<double>(), loss2.item<double>(), 2e-6 * std::abs(loss2.item<double>()));
    torch::autograd::backward({loss}, {});
    torch::autograd::backward({loss2}, {});
    EXPECT_LT(distance(x.grad(), x2.grad().to(at::kFloat)),
              1e-4);  // of values up to 4; without the mean row it would be 3e-3
  }
}

TEST(ByRows, WholeOrInBlocksOfTheSameGrainGivesTheSameBits) {
  const at::Tensor w = at::randn({3 * kRowsAtOnce + 17, 8}), targets = at::randint(w.size(0), {21}, at::kLong);
  const at::Tensor x = leaf({21, 8}), x2 = twin(x);
  ParamState whole, blocks;
  whole.bind(w);
  bind_in_blocks(blocks, w, 2 * kRowsAtOnce);
  const at::Tensor loss = linear_cross_entropy_sum_by_rows(x, whole, targets);
  const at::Tensor loss2 = linear_cross_entropy_sum_by_rows(x2, blocks, targets);
  torch::autograd::backward({loss}, {});
  torch::autograd::backward({loss2}, {});
  EXPECT_TRUE(loss.equal(loss2));
  EXPECT_TRUE(x.grad().equal(x2.grad()));
}

TEST(ByRows, InBf16SumsInFp32) {
  const at::Tensor w = at::randn({50, 8}), targets = at::randint(50, {6}, at::kLong), x = leaf({6, 8});
  const at::Tensor half = x.detach().to(at::kBFloat16).set_requires_grad(true);
  ParamState param;
  bind_in_blocks(param, w.to(at::kBFloat16), 20);
  const at::Tensor loss = linear_cross_entropy_sum_by_rows(half, param, targets);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  const at::Tensor want = at::cross_entropy_loss(at::linear(x, w), targets, {}, at::Reduction::Sum);
  EXPECT_NEAR(loss.item<double>(), want.item<double>(), 0.02 * want.item<double>());
  torch::autograd::backward({loss}, {});
  torch::autograd::backward({want}, {});
  EXPECT_EQ(half.grad().scalar_type(), at::kBFloat16);
  EXPECT_LT(distance(half.grad().to(at::kFloat), x.grad()), 0.05);
}

}  // namespace
}  // namespace tessera::nn
