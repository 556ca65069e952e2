#include "tessera/nn/dropout.hpp"

#include <ATen/ops/ones.h>

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

TEST(Dropout, MasksByTensorOperationsAreTheNativeOnes) {
  const at::Tensor x = at::ones({3, 7, 5});
  const auto ctx = training({11, 12, 13});
  EXPECT_TRUE(dropout_mask(x, 0.3, "q_proj", ctx).equal(dropout_mask(x, 0.3, "q_proj", ctx, true)));
}

TEST(Dropout, ARowsMaskFollowsItsSampleNotItsPlaceOrPadding) {
  const at::Tensor small = dropout_mask(at::ones({2, 4, 6}), 0.5, "site", training({8, 9}));
  const at::Tensor padded = dropout_mask(at::ones({3, 7, 6}), 0.5, "site", training({1, 9, 8}));
  EXPECT_TRUE(small[0].equal(padded[2].narrow(0, 0, 4)));
  EXPECT_TRUE(small[1].equal(padded[1].narrow(0, 0, 4)));
}

TEST(Dropout, SitesAndStepsDiffer) {
  const at::Tensor x = at::ones({1, 200});
  auto ctx = training({4});
  const at::Tensor first = dropout_mask(x, 0.5, "a", ctx);
  EXPECT_FALSE(first.equal(dropout_mask(x, 0.5, "b", ctx)));
  ctx.step = 6;
  EXPECT_FALSE(first.equal(dropout_mask(x, 0.5, "a", ctx)));
}

TEST(Dropout, KeepsTheMean) {
  const at::Tensor mask = dropout_mask(at::ones({1, 40000}), 0.25, "site", training({1}));
  EXPECT_NEAR(mask.mean().item<double>(), 1.0, 0.02);
  EXPECT_NEAR(mask.eq(0).to(at::kFloat).mean().item<double>(), 0.25, 0.015);
}

TEST(Dropout, DoesNothingOutsideTraining) {
  const at::Tensor x = at::ones({2, 3});
  EXPECT_TRUE(dropout(x, 0.9, "site", {}).is_same(x));
}

TEST(Dropout, RefusesWrongProbabilitiesAndKeys) {
  const at::Tensor x = at::ones({2, 3});
  EXPECT_THROW(dropout(x, 1.0, "site", training({1, 2})), RequestError);
  EXPECT_THROW(dropout(x, 0.5, "site", training({1})), RunError);
}

}  // namespace
}  // namespace tessera::nn
