// One optimiser step of a miniature LISA, on as many ranks as this program was started with.
#include "tessera/train/step.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

class StepTest : public testing::Test {
 protected:
  StepTest() : model(job.load(without_dropout())) {}
  TrainConfig without_dropout() {
    auto config = job.config();
    config.lora_dropout = 0;
    return config;
  }

  // The batches of the stream's first step, of `images` images over `world` ranks.
  std::vector<models::LisaBatch> batches(std::int64_t batch_size, std::int64_t images, int rank, int world) {
    data::LoaderConfig config;
    config.shards = job.folders().shards.string();
    config.batch_size = batch_size;
    config.global_batch_size = images;
    config.workers = 1;
    const auto shards = data::Shards::open(config.shards, "train", {});
    data::Loader loader(config, model.input_spec(400), shards, 3, rank, world);
    std::vector<models::LisaBatch> out;
    for (auto& m : loader.next().micro) out.push_back(std::move(m.batch));
    return out;
  }

  StepMetrics step(shard::Optimizer& optimizer, const std::vector<models::LisaBatch>& micro, bool global = true) {
    StepConfig config;
    config.global_normalization = global;
    LossScaler scaler(false);
    return run_step(*model.recipe, *model.engine, optimizer, {micro.begin(), micro.end()}, 1, config, scaler);
  }
  shard::Optimizer optimizer(double lr) {
    return {*model.engine, {}, {{"all", lr, 0.0}}, [](const nn::ParamState&) { return std::size_t{0}; }};
  }
  std::vector<at::Tensor> state() {
    std::vector<at::Tensor> out;
    for (const auto& s : model.engine->trained()) {
      for (const auto& t : {s.master, s.exp_avg, s.exp_avg_sq}) out.push_back(t.clone());
    }
    return out;
  }
  bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    bool out = true;
    for (std::size_t i = 0; i < a.size(); ++i) out = out && a[i].equal(b[i]);
    return out;
  }

  toy::Job job;
  LoadedModel model;
};

void expect_close(double a, double b, const char* what) {
  EXPECT_NEAR(a, b, 2e-5 * std::abs(b)) << what;
}

TEST_F(StepTest, TwoMicroBatchesAreOneBatchOfBothWhereverTheyRun) {
  auto still = optimizer(0.0);  // the weights stay, so that both steps start alike
  const auto apart = step(still, batches(1, 2, job.rank(), job.comm().size()));
  EXPECT_EQ(apart.samples, 2);
  // Every rank has the whole batch: the means over all ranks are those of one.
  const auto together = step(still, batches(2, 2, 0, 1));
  EXPECT_EQ(together.samples, 2 * job.comm().size());
  EXPECT_EQ(together.tokens, apart.tokens * job.comm().size());
  EXPECT_GT(apart.mask_bce_loss, 0.0);
  EXPECT_GT(apart.mask_dice_loss, 0.0);
  EXPECT_GT(apart.ce_loss, 0.0);
  expect_close(apart.ce_loss, together.ce_loss, "ce");
  expect_close(apart.mask_bce_loss, together.mask_bce_loss, "bce");
  expect_close(apart.mask_dice_loss, together.mask_dice_loss, "dice");
  expect_close(apart.loss, together.loss, "loss");
  expect_close(apart.loss, apart.ce_loss + apart.mask_loss, "sum of the parts");
  expect_close(apart.grad_norm, together.grad_norm, "norm of the gradient");
}

TEST_F(StepTest, GlobalMeansAreTheReferencesOnABatchThatIsAlone) {
  const auto whole = batches(2, 2, 0, 1);
  const at::NoGradGuard no_grad;
  nn::ForwardContext ctx;
  ctx.sample_keys = whole[0].sample_keys;
  model.engine->begin_step();
  model.engine->begin_pass(shard::Pass::free_order);
  const auto own =
      model.recipe->segments()->forward(whole[0], *model.engine, ctx);  // divides by the batch's own counts
  model.engine->end_pass();
  model.engine->end_step();
  auto still = optimizer(0.0);
  at::AutoGradMode with_grad(true);
  const auto metrics = step(still, whole);
  expect_close(metrics.ce_loss, own.ce_loss.item<double>(), "ce");
  expect_close(metrics.mask_bce_loss, own.mask_bce_loss.item<double>(), "bce");
  expect_close(metrics.mask_dice_loss, own.mask_dice_loss.item<double>(), "dice");
}

TEST_F(StepTest, WithMicroBatchNormalisationEachMicroBatchCountsAlike) {
  auto still = optimizer(0.0);
  const auto micro = batches(1, 2, 0, 1);  // every rank has both
  const auto mean = step(still, micro, /*global=*/false);
  const auto first = step(still, {micro[0]}, false);
  const auto second = step(still, {micro[1]}, false);
  expect_close(mean.loss, (first.loss + second.loss) / 2, "loss");
  EXPECT_NE(first.loss, second.loss);
}

TEST_F(StepTest, AStepWithoutAnyMaskHasNoMaskLossAndAGradient) {
  auto micro = batches(1, 2, job.rank(), job.comm().size());
  const auto seg = model.recipe->segments()->config().seg_token_id;
  for (auto& batch : micro) {
    for (auto* ids : {&batch.input_ids, &batch.labels}) {
      *ids = at::where(ids->eq(seg), at::full_like(*ids, 5), *ids);
    }
    for (auto& mask : batch.masks) mask = mask.narrow(0, 0, 0);
  }
  auto still = optimizer(0.0);
  const auto metrics = step(still, micro);
  EXPECT_EQ(metrics.mask_bce_loss, 0.0);
  EXPECT_EQ(metrics.mask_dice_loss, 0.0);
  EXPECT_EQ(metrics.mask_loss, 0.0);
  EXPECT_GT(metrics.ce_loss, 0.0);
  EXPECT_GT(metrics.grad_norm, 0.0);
  EXPECT_TRUE(std::isfinite(metrics.grad_norm));
  EXPECT_FALSE(metrics.skipped);
}

TEST_F(StepTest, AGradientThatIsNotFiniteOnOneRankLeavesEveryRankAsItWas) {
  auto adam = optimizer(1e-2);
  const auto good = batches(1, 2, job.rank(), job.comm().size());
  auto bad = good;
  if (job.rank() == 0) {
    bad[0].images_clip = at::full_like(bad[0].images_clip, std::numeric_limits<double>::quiet_NaN());
  }
  const auto before = state();
  const auto metrics = step(adam, bad);
  EXPECT_TRUE(metrics.skipped);
  EXPECT_FALSE(std::isfinite(metrics.grad_norm));
  EXPECT_EQ(adam.steps(), 0);
  EXPECT_TRUE(same(before, state()));
  // And the next step is a step like any other.
  const auto next = step(adam, good);
  EXPECT_FALSE(next.skipped);
  EXPECT_EQ(adam.steps(), 1);
  EXPECT_FALSE(same(before, state()));
}

TEST_F(StepTest, StepsLowerTheLossOfTheirOwnBatch) {
  auto adam = optimizer(5e-3);
  const auto micro = batches(1, 2, job.rank(), job.comm().size());
  const double first = step(adam, micro).loss;
  double last = first;
  for (int k = 0; k < 8; ++k) last = step(adam, micro).loss;
  EXPECT_LT(last, 0.9 * first);
}

TEST_F(StepTest, ABatchThatLiesWhereTheEngineComputesIsShared) {
  const auto batch = batches(1, 1, 0, 1).front();
  const auto moved = on_device(batch, model.engine->config());
  EXPECT_EQ(moved.images.const_data_ptr(), batch.images.const_data_ptr());
  auto half = model.engine->config();
  half.compute = shard::ComputeType::bf16;
  const auto rounded = on_device(batch, half);
  EXPECT_EQ(rounded.images.scalar_type(), at::kBFloat16);
  EXPECT_EQ(rounded.images_clip.scalar_type(), at::kBFloat16);
  EXPECT_EQ(rounded.masks.at(0).scalar_type(), at::kFloat);  // losses are fp32
  EXPECT_TRUE(rounded.input_ids.equal(batch.input_ids));
}

TEST_F(StepTest, Fp16IsScaledSkipsOverflowsAndGivesTheGradientOfFp32) {
  auto still = optimizer(0.0);
  const auto micro = batches(1, 2, job.rank(), job.comm().size());
  const auto want = step(still, micro);

  auto config = without_dropout();
  config.precision = "fp16";
  LoadedModel half = job.load(config);
  shard::Optimizer half_optimizer(*half.engine, {}, {{"all", 1e-3, 0.0}},
                                  [](const nn::ParamState&) { return std::size_t{0}; });
  LossScaler scaler(true);
  scaler.restore(16777216.0, 0);  // so large that the first gradients overflow
  StepConfig step_config;
  StepMetrics metrics;
  int skipped = 0;
  for (int tries = 0; tries < 24; ++tries) {
    const auto before = half.engine->trained().front().master.clone();
    const double scale = scaler.scale();
    metrics =
        run_step(*half.recipe, *half.engine, half_optimizer, {micro.begin(), micro.end()}, 1, step_config, scaler);
    EXPECT_EQ(metrics.loss_scale, scale);
    if (!metrics.skipped) break;
    ++skipped;
    EXPECT_FALSE(metrics.skip_reason.empty());
    EXPECT_EQ(scaler.scale(), scale / 2);
    EXPECT_TRUE(before.equal(half.engine->trained().front().master));
  }
  EXPECT_GT(skipped, 0);
  ASSERT_FALSE(metrics.skipped);
  EXPECT_NEAR(metrics.loss, want.loss, 0.02 * want.loss);
  EXPECT_NEAR(metrics.grad_norm, want.grad_norm, 0.05 * want.grad_norm);  // unscaled
}

}  // namespace
}  // namespace tessera::train
