#include "tessera/nn/causal.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/support.hpp"

namespace tessera::nn {
namespace {

const at::TensorOptions kFloats = at::TensorOptions().dtype(at::kFloat);

/// 1 where a query sees a key.
at::Tensor seen(const CausalMask& mask) {
  return mask.bias->gt(-1e30).to(at::kLong)[0][0];
}

TEST(CausalMask, WithoutPaddingPastOrWindowThereIsNoBias) {
  const CausalMask mask = causal_mask(at::ones({2, 4}, at::kBool), 4, 0, kFloats);
  EXPECT_FALSE(mask.bias.has_value());
  EXPECT_TRUE(mask.causal);
  EXPECT_FALSE(causal_mask(at::ones({2, 4}, at::kBool), 4, 4, kFloats).bias.has_value()) << "the window holds all";
}

TEST(CausalMask, PaddingOnTheRightIsToldFromPaddingElsewhere) {
  const auto mask = [](std::vector<std::int64_t> bits) {
    return at::tensor(bits, at::kLong).view({2, -1}).to(at::kBool);
  };
  EXPECT_TRUE(padded_on_the_right(mask({1, 1, 1, 1, 1, 1})));
  EXPECT_TRUE(padded_on_the_right(mask({1, 1, 0, 1, 0, 0})));
  EXPECT_TRUE(padded_on_the_right(mask({0, 0, 0, 1, 1, 1})));
  EXPECT_FALSE(padded_on_the_right(mask({1, 1, 1, 0, 1, 1})));
  EXPECT_FALSE(padded_on_the_right(mask({1, 0, 1, 1, 1, 1})));
}

TEST(CausalMask, OneNewPositionSeesAllThatIsNotPadded) {
  const CausalMask all = causal_mask(at::ones({1, 4}, at::kBool), 1, 0, kFloats);
  EXPECT_FALSE(all.bias.has_value());
  EXPECT_FALSE(all.causal);
  const at::Tensor padded = at::tensor({0, 1, 1, 1}, at::kLong).to(at::kBool).view({1, 4});
  EXPECT_TRUE(seen(causal_mask(padded, 1, 0, kFloats)).equal(at::tensor({0, 1, 1, 1}, at::kLong).view({1, 4})));
}

TEST(CausalMask, NewPositionsSeeThePastAndEarlierNewOnes) {
  const at::Tensor wanted = at::tensor({1, 1, 1, 0, 1, 1, 1, 1}, at::kLong).view({2, 4});
  EXPECT_TRUE(seen(causal_mask(at::ones({1, 4}, at::kBool), 2, 0, kFloats)).equal(wanted));
}

TEST(CausalMask, AWindowHidesWhatIsFurtherAway) {
  const at::Tensor wanted = at::tensor({1, 0, 0, 1, 1, 0, 0, 1, 1}, at::kLong).view({3, 3});
  EXPECT_TRUE(seen(causal_mask(at::ones({1, 3}, at::kBool), 3, 2, kFloats)).equal(wanted));
}

TEST(CausalMask, HidesTheFutureAndThePaddingWithFiniteValues) {
  const at::Tensor padded = at::tensor({0, 1, 1}, at::kLong).to(at::kBool).view({1, 3});
  const CausalMask mask = causal_mask(padded, 3, 0, kFloats);
  EXPECT_TRUE(seen(mask).equal(at::tensor({0, 0, 0, 0, 1, 0, 0, 1, 1}, at::kLong).view({3, 3})));
  EXPECT_TRUE(mask.bias->isfinite().all().item<bool>());
}

/// The gradient of q by autograd over plain operations.
at::Tensor gradient(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const CausalMask& mask,
                    const at::Tensor& cotangent) {
  const at::Tensor leaf = q.detach().clone().requires_grad_(true);
  masked_attention(leaf, k, v, mask).mul(cotangent).sum().backward();
  return leaf.grad();
}

TEST(MaskedAttention, AQueryThatSeesNothingAveragesAllKeysForwardAndBackward) {
  const at::Tensor padded = at::tensor({0, 1, 1}, at::kLong).to(at::kBool).view({1, 3});
  const CausalMask mask = causal_mask(padded, 3, 0, kFloats);
  EXPECT_TRUE(mask.blind);
  const at::Tensor q = at::randn({1, 4, 3, 5}), k = at::randn({1, 2, 3, 5}), v = at::randn({1, 2, 3, 5});
  EXPECT_LT(testing_support::distance(masked_attention(q, k, v, mask).select(2, 0).narrow(1, 0, 2),
                                      v.mean(2).narrow(1, 0, 1).expand({1, 2, 5})),
            1e-6);
  const at::Tensor got = gradient(q, k, v, mask, at::ones({1, 4, 3, 5}));
  // d softmax with equal probabilities 1/3, keys of the first key-value head.
  const at::Tensor dv = v[0][0].sum(1);
  const at::Tensor wanted = (dv - dv.mean()).div(3).unsqueeze(1).mul(k[0][0]).sum(0).div(std::sqrt(5.0));
  EXPECT_LT(testing_support::distance(got[0][0][0], wanted), 1e-5);
  const at::AutoGradMode off(false);
  EXPECT_FALSE(causal_mask(padded, 3, 0, kFloats).blind) << "the fused kernels' forward is right";
}

TEST(MaskedAttention, WhereScoresAreReplacedTheirGradientEnds) {
  const at::Tensor padded = at::tensor({0, 1, 1}, at::kLong).to(at::kBool).view({1, 3});
  const CausalMask mask = alibi_mask(padded, 3, 2, kFloats);
  const at::Tensor q = at::randn({1, 2, 3, 5}), k = at::randn({1, 2, 3, 5}), v = at::randn({1, 2, 3, 5});
  const at::Tensor got = gradient(q, k, v, mask, at::randn({1, 2, 3, 5}));
  EXPECT_EQ(got.select(2, 0).abs().max().item<double>(), 0.0);
  EXPECT_GT(got.select(2, 2).abs().max().item<double>(), 0.0);
}

TEST(Alibi, SlopesOfAPowerOfTwoHalveAndOthersInterleaveTheNext) {
  EXPECT_LT(testing_support::distance(
                alibi_slopes(8),
                at::tensor({0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625}).to(at::kFloat)),
            1e-9);
  EXPECT_LT(testing_support::distance(alibi_slopes(3), at::tensor({0.0625, 0.00390625, 0.25}).to(at::kFloat)), 1e-9);
}

TEST(Alibi, TheBiasFallsWithDistanceAndHidesTheFuture) {
  const CausalMask mask = alibi_mask(at::ones({1, 4}, at::kBool), 2, 1, kFloats);
  ASSERT_EQ(mask.bias->sizes(), (at::IntArrayRef{1, 1, 2, 4}));
  const double slope = 1.0 / 256.0;
  const at::Tensor last = (*mask.bias)[0][0][1];
  for (int j = 0; j < 4; ++j) EXPECT_NEAR(last[j].item<double>(), -slope * (3 - j), 1e-9);
  EXPECT_LT((*mask.bias)[0][0][0][3].item<double>(), -1e30);
}

}  // namespace
}  // namespace tessera::nn
