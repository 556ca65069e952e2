#include "tessera/nn/noise.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::nn {
namespace {

ForwardContext training(std::vector<std::uint64_t> keys) {
  ForwardContext ctx;
  ctx.seed = 3;
  ctx.step = 5;
  ctx.training = true;
  ctx.sample_keys = std::move(keys);
  return ctx;
}

TEST(Noise, IsUniformFromMinusOneToOne) {
  const at::Tensor noise = uniform_noise(at::zeros({1, 40000}), "site", training({1}));
  EXPECT_GE(noise.min().item<double>(), -1.0);
  EXPECT_LT(noise.max().item<double>(), 1.0);
  EXPECT_NEAR(noise.mean().item<double>(), 0.0, 0.01);
  EXPECT_NEAR(noise.square().mean().item<double>(), 1.0 / 3, 0.01);
}

TEST(Noise, ByTensorOperationsIsTheNativeOne) {
  const at::Tensor x = at::zeros({3, 7, 5});
  const auto ctx = training({11, 12, 13});
  EXPECT_TRUE(uniform_noise(x, "a", ctx).equal(uniform_noise(x, "a", ctx, true)));
}

TEST(Noise, OfARowFollowsItsSampleNotItsPlaceOrPadding) {
  const at::Tensor small = uniform_noise(at::zeros({2, 4, 6}), "site", training({8, 9}));
  const at::Tensor padded = uniform_noise(at::zeros({3, 7, 6}), "site", training({1, 9, 8}));
  EXPECT_TRUE(small[0].equal(padded[2].narrow(0, 0, 4)));
  EXPECT_TRUE(small[1].equal(padded[1].narrow(0, 0, 4)));
}

TEST(EmbeddingNoise, IsAsLargeAsTheRowIsShort) {
  const at::Tensor x = at::zeros({2, 50, 8}), positions = at::tensor({50, 13}, at::kLong);
  const at::Tensor noise = with_embedding_noise(x, positions, 5.0, "site", training({1, 2}));
  for (const std::int64_t row : {0, 1}) {
    const double most = 5.0 / std::sqrt(8.0 * positions[row].item<double>());
    EXPECT_LE(noise[row].abs().max().item<double>(), most * (1 + 1e-6));
    EXPECT_NEAR(noise[row].square().mean().item<double>(), most * most / 3, 0.15 * most * most / 3);
  }
}

TEST(EmbeddingNoise, IsOtherAtEachStepAndNoneOutsideTraining) {
  const at::Tensor x = at::zeros({1, 3, 2}), positions = at::tensor({3}, at::kLong);
  auto ctx = training({4});
  const at::Tensor first = with_embedding_noise(x, positions, 1.0, "site", ctx);
  ctx.step = 6;
  EXPECT_FALSE(first.equal(with_embedding_noise(x, positions, 1.0, "site", ctx)));
  EXPECT_TRUE(with_embedding_noise(x, positions, 0.0, "site", ctx).is_same(x));
  ctx.training = false;
  EXPECT_TRUE(with_embedding_noise(x, positions, 1.0, "site", ctx).is_same(x));
}

TEST(Noise, NeedsAKeyForEachRow) {
  EXPECT_THROW(uniform_noise(at::zeros({2, 3}), "site", training({1})), RunError);
}

}  // namespace
}  // namespace tessera::nn
