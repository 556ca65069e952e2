// Runs that stop early, that keep an average of their weights, that have rates by name; on as many ranks as there are.
#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/trainer.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;

class OptimizationRun : public testing::Test {
 protected:
  TrainRequest request(const std::string& name, std::int64_t steps) {
    TrainRequest r;
    r.train = job.config();
    r.train.log_base_dir = job.fresh_folder(name).string();
    r.train.exp_name = "run";
    r.train.max_steps = steps;
    r.train.steps_per_epoch = 1;
    r.train.lr_scheduler_type = "constant";
    r.train.vis_samples = 0;
    r.train.export_merged = false;
    r.loader.shards = job.folders().shards.string();
    r.loader.batch_size = 1;
    r.loader.global_batch_size = 2;
    r.loader.workers = 1;
    r.loader.model_max_length = 400;
    return r;
  }
  ExitStatus train(const TrainRequest& r) {
    return run_training(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log());
  }
  std::vector<std::pair<double, double>> losses(const TrainRequest& r) {
    return read_series(fs::path(r.train.run_dir()) / "metrics.jsonl", "loss");
  }
  std::vector<std::byte> adapter(const TrainRequest& r) {
    const auto text = testing_support::read_file(fs::path(r.train.run_dir()) / "adapter" / "adapter_model.safetensors");
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    return {bytes, bytes + text.size()};
  }
  toy::Job job;
};

TEST_F(OptimizationRun, StopsWhenNoValidationWasBetterForLongEnough) {
  auto r = request("early", 8);
  r.val_shards = job.folders().shards.string();
  r.train.lr = 0;  // every validation is as good as the first
  r.train.optimization.early_stopping_patience = 2;
  EXPECT_EQ(train(r), ExitStatus::done);
  EXPECT_EQ(losses(r).size(), 3U);
  EXPECT_TRUE(fs::exists(fs::path(r.train.run_dir()) / "adapter"));  // it ends as a run that was whole
  EXPECT_TRUE(fs::exists(fs::path(r.train.run_dir()) / "checkpoints" / "step-3" / "manifest.json"));
  EXPECT_EQ(train(r), ExitStatus::done);  // started again, it has nothing to do
  EXPECT_EQ(losses(r).size(), 3U);
}

TEST_F(OptimizationRun, ThePatienceLastsThroughAResume) {
  auto r = request("early_resumed", 2);
  r.val_shards = job.folders().shards.string();
  r.train.lr = 0;
  r.train.optimization.early_stopping_patience = 3;
  EXPECT_EQ(train(r), ExitStatus::done);
  EXPECT_EQ(losses(r).size(), 2U);
  r.train.max_steps = 8;
  EXPECT_EQ(train(r), ExitStatus::done);
  EXPECT_EQ(losses(r).size(), 4U);
}

TEST_F(OptimizationRun, EarlyStoppingNeedsAValidation) {
  auto r = request("early_without", 1);
  r.train.optimization.early_stopping_patience = 1;
  const auto text = message_of<RequestError>([&] { train(r); });
  EXPECT_NE(text.find("--val_shards"), std::string::npos) << text;
}

TEST_F(OptimizationRun, TheAverageIsExportedAndLeavesTheStepsAsTheyAre) {
  const auto run = [&](const std::string& name, std::int64_t steps, double decay, const std::string& use) {
    auto r = request(name, steps);
    r.train.optimization.ema_decay = decay;
    r.train.optimization.ema_use = use;
    EXPECT_EQ(train(r), ExitStatus::done);
    return r;
  };
  const auto plain = run("average_none", 3, 0, "both"), kept = run("average_kept", 3, 0.5, "eval"),
             exported = run("average_exported", 3, 0.5, "export");
  EXPECT_EQ(losses(plain), losses(kept));
  EXPECT_EQ(losses(plain), losses(exported));
  EXPECT_EQ(adapter(plain), adapter(kept));
  EXPECT_NE(adapter(plain), adapter(exported));
  // The first step's weights start it.
  EXPECT_EQ(adapter(run("one_plain", 1, 0, "both")), adapter(run("one_averaged", 1, 0.5, "both")));
}

TEST_F(OptimizationRun, TheAverageIsValidatedAndGoesOnAfterAResume) {
  auto whole = request("average_whole", 3), resumed = request("average_resumed", 2);
  for (auto* r : {&whole, &resumed}) {
    r->train.optimization.ema_decay = 0.5;
    r->val_shards = job.folders().shards.string();
  }
  EXPECT_EQ(train(whole), ExitStatus::done);
  EXPECT_EQ(train(resumed), ExitStatus::done);
  resumed.train.max_steps = 3;
  EXPECT_EQ(train(resumed), ExitStatus::done);
  EXPECT_EQ(losses(whole), losses(resumed));
  EXPECT_EQ(adapter(whole), adapter(resumed));
  const auto values = [](const TrainRequest& r) {
    return read_series(fs::path(r.train.run_dir()) / "metrics.jsonl", "val_giou");
  };
  EXPECT_EQ(values(whole).size(), 3U);
  EXPECT_EQ(values(whole), values(resumed));
}

TEST_F(OptimizationRun, RatesByNameAreLoggedAndHold) {
  auto r = request("rates", 1), still = request("rates_still", 1);
  r.train.optimization.lr_groups = {"lora_=0", "lm_head=5e-3"};
  EXPECT_EQ(train(r), ExitStatus::done);
  still.train.lr = 0;
  EXPECT_EQ(train(still), ExitStatus::done);
  EXPECT_EQ(adapter(r), adapter(still));  // its rate was 0
  const auto text = testing_support::read_file(fs::path(r.train.run_dir()) / "metrics.jsonl");
  EXPECT_NE(text.find("all/lm_head"), std::string::npos) << text;
}

}  // namespace
}  // namespace tessera::train
