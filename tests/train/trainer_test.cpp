// The loop of `tessera train` in this process, on as many ranks as this program was started with.
#include "tessera/train/trainer.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/train/export.hpp"
#include "tessera/train/metrics_log.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;

class TrainerTest : public testing::Test {
 protected:
  TrainRequest request(const std::string& name) {
    TrainRequest r;
    r.train = job.config();
    r.train.log_base_dir = job.folders().scratch.string();
    r.train.exp_name = name;
    r.train.max_steps = 3;
    r.train.steps_per_epoch = 3;
    r.train.warmup_steps = 1;
    r.train.vis_samples = 1;
    r.loader.shards = job.folders().shards.string();
    r.loader.batch_size = 1;
    r.loader.global_batch_size = 2;
    r.loader.workers = 1;
    r.loader.model_max_length = 400;
    r.config_toml = "# of this run\n";
    return r;
  }
  // Weights of a file: they do not follow the seed.
  std::string finished_model() {
    auto model = job.load(job.config());
    const auto folder = job.fresh_folder("finished_for_runs");
    export_merged(model, folder, "fp32", Log());
    return folder.string();
  }
  ExitStatus train(const TrainRequest& r) {
    return run_training(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log());
  }
  toy::Job job;
};

TEST_F(TrainerTest, ARunLeavesItsFolderAndGoesOnOnlyAsItBegan) {
  auto r = request("trainer_run");
  r.train.version = finished_model();
  r.train.random_init = false;
  r.val_shards = job.folders().shards.string();
  EXPECT_EQ(train(r), ExitStatus::done);
  const fs::path run = r.train.run_dir();
  for (const char* name :
       {"config.toml", "metrics.jsonl", "losses.png", "validation.png", "checkpoints/step-3/manifest.json", "best",
        "overlays", "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
        "adapter/non_lora_trainables.bin", "adapter/config.json", "merged/config.json", "merged/tokenizer.model"}) {
    EXPECT_TRUE(fs::exists(run / name)) << name;
  }
  const auto losses = read_series(run / "metrics.jsonl", "loss");
  ASSERT_EQ(losses.size(), 3U);
  EXPECT_GT(losses[0].second, 0.0);
  EXPECT_EQ(read_series(run / "metrics.jsonl", "val_giou").size(), 1U);
  EXPECT_EQ(read_series(run / "metrics.jsonl", "samples").front().second, 2.0);

  auto other_seed = r;
  other_seed.seed = 43;
  const auto about_seed = message_of<RequestError>([&] { train(other_seed); });
  EXPECT_NE(about_seed.find("--seed 42"), std::string::npos) << about_seed;

  auto other_batch = r;
  other_batch.loader.global_batch_size = 4;
  const auto about_batch = message_of<RequestError>([&] { train(other_batch); });
  EXPECT_NE(about_batch.find("--global_batch_size 2"), std::string::npos) << about_batch;
  EXPECT_EQ(read_series(run / "metrics.jsonl", "loss"), losses);  // a refusal leaves the run as it was

  auto longer = r;
  longer.train.max_steps = 4;
  EXPECT_EQ(train(longer), ExitStatus::done);
  const auto more = read_series(run / "metrics.jsonl", "loss");
  ASSERT_EQ(more.size(), 4U);
  EXPECT_EQ(std::vector(more.begin(), more.begin() + 3), losses);
}

TEST_F(TrainerTest, EvalOnlyWithoutAValidationSetIsRefused) {
  auto r = request("eval_only");
  r.train.eval_only = true;
  const auto text = message_of<RequestError>([&] { train(r); });
  EXPECT_NE(text.find("--val_shards"), std::string::npos) << text;
}

TEST_F(TrainerTest, EvalOnlyValidatesOnceAndTrainsNothing) {
  auto r = request("eval_once");
  r.train.eval_only = true;
  r.val_shards = job.folders().shards.string();
  EXPECT_EQ(train(r), ExitStatus::done);
  const fs::path metrics = fs::path(r.train.run_dir()) / "metrics.jsonl";
  EXPECT_EQ(read_series(metrics, "val_giou").size(), 1U);
  EXPECT_TRUE(read_series(metrics, "loss").empty());
  EXPECT_FALSE(fs::exists(metrics.parent_path() / "merged"));
}

TEST_F(TrainerTest, SettingsAreCheckedBeforeAnythingIsWritten) {
  auto r = request("contradiction");
  r.train.train_scope = "full";
  EXPECT_THROW(train(r), RequestError);
  EXPECT_FALSE(fs::exists(r.train.run_dir()));
}

}  // namespace
}  // namespace tessera::train
