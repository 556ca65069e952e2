#include "tessera/adapt/adalora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "nn/support.hpp"
#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::adapt {
namespace {

using testing_support::distance;
using testing_support::message_of;

AdaLoraConfig published() {
  AdaLoraConfig config;
  config.init_r = 24;
  config.target_r = 16;
  config.tinit = 10;
  config.tfinal = 20;
  config.total_step = 100;
  config.delta_t = 10;
  return config;
}

TEST(AdaLoraSchedule, IsPeftsCubic) {
  const AdaLoraConfig config = published();
  const auto expect = [&](std::int64_t step, std::int64_t triplets, bool allocate) {
    const RankBudget budget = rank_budget(config, 24, 1, step);
    EXPECT_EQ(budget.triplets, triplets) << step;
    EXPECT_EQ(budget.allocate, allocate) << step;
  };
  expect(1, 24, false);
  expect(10, 24, false);
  expect(15, 22, false);
  expect(20, 21, true);
  expect(30, 18, true);
  expect(40, 17, true);
  expect(50, 16, true);
  expect(80, 16, true);
  expect(81, 16, true);
}

TEST(AdaLoraSchedule, SaysWhatNoScheduleCanBeMadeOf) {
  EXPECT_NO_THROW(published().check());
  const auto refused = [](auto&& change, const char* part) {
    AdaLoraConfig config = published();
    change(config);
    EXPECT_NE(message_of<RequestError>([&] { config.check(); }).find(part), std::string::npos) << part;
  };
  refused([](AdaLoraConfig& c) { c.init_r = 0; }, "init_r 0");
  refused([](AdaLoraConfig& c) { c.target_r = 25; }, "target_r 25");
  refused([](AdaLoraConfig& c) { c.delta_t = 0; }, "deltaT 0");
  refused([](AdaLoraConfig& c) { c.tinit = -1; }, "tinit -1");
  refused([](AdaLoraConfig& c) { c.tinit = 80; }, "tinit 80");
  refused([](AdaLoraConfig& c) { c.total_step = 0; }, "total_step 0");
  refused([](AdaLoraConfig& c) { c.beta2 = 1; }, "beta 1");
  refused([](AdaLoraConfig& c) { c.orth_reg_weight = 0; }, "orth_reg_weight 0");
}

TEST(AdaLoraImportance, AveragesTheProductAndItsDeviation) {
  AdaLoraConfig config;
  config.beta1 = 0.5;
  config.beta2 = 0.25;
  at::Tensor sensitivity = at::full({1}, 2.0), uncertainty = at::full({1}, 4.0);
  update_importance(config, at::full({1}, -3.0), at::full({1}, 2.0), sensitivity, uncertainty);
  EXPECT_NEAR(sensitivity.item<double>(), 0.5 * 2 + 0.5 * 6, 1e-6);
  EXPECT_NEAR(uncertainty.item<double>(), 0.25 * 4 + 0.75 * 2, 1e-6);
}

TEST(AdaLoraImportance, ATripletsScoreIsItsOwnAndTheMeansBeside) {
  const at::Tensor a = at::tensor({1.0, 3.0, 10.0, 20.0}).view({2, 2}), e = at::tensor({100.0, 200.0}).view({2, 1});
  const at::Tensor b = at::tensor({0.0, 3.0, 0.0, 0.0, 6.0, 9.0}).view({3, 2});
  EXPECT_LT(distance(triplet_scores(a, e, b), at::tensor({104.0, 219.0})), 1e-4);
}

TEST(AdaLoraAllocation, KeepsTheBestOfAllLayersAndLetsATieGo) {
  const std::vector<at::Tensor> scores{at::tensor({0.5F, 3.0F, 1.0F}), at::tensor({2.0F, 1.0F})};
  using Kept = std::vector<std::vector<bool>>;
  EXPECT_EQ(allocate_triplets(scores, 5), (Kept{{true, true, true}, {true, true}}));
  EXPECT_EQ(allocate_triplets(scores, 4), (Kept{{false, true, true}, {true, true}}));
  EXPECT_EQ(allocate_triplets(scores, 3), (Kept{{false, true, false}, {true, false}}));
  EXPECT_EQ(allocate_triplets(scores, 1), (Kept{{false, true, false}, {false, false}}));
}

TEST(AdaLoraRegulariser, IsTheDistanceFromOrthonormalRows) {
  EXPECT_EQ(orthogonality(at::eye(3, 5)).item<double>(), 0.0);
  EXPECT_EQ(orthogonality(at::zeros({0, 4})).item<double>(), 0.0);
  const at::Tensor rows = at::randn({3, 5}).requires_grad_();
  const at::Tensor value = orthogonality(rows);
  value.backward();
  EXPECT_LT(distance(orthogonality_gradient(rows), rows.grad()), 1e-5);
  EXPECT_EQ(orthogonality_gradient(at::eye(3, 5)).abs().max().item<double>(), 0.0);
}

}  // namespace
}  // namespace tessera::adapt
