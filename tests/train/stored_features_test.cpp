// Training on features that the shards hold, in this process, on as many ranks as this program was started with.
#include "train/stored_features.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "data/toy.hpp"
#include "support/limits.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/data/frozen_towers.hpp"
#include "tessera/data/prepare.hpp"
#include "tessera/train/export.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/trainer.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;

class StoredFeaturesTest : public testing::Test {
 protected:
  // Weights of a file, drawn by `seed`.
  fs::path model(const std::string& name, std::uint64_t seed) {
    auto loaded = job.load(job.config(), true, seed);
    const auto folder = job.fresh_folder(name);
    export_merged(loaded, folder, "fp32", Log());
    return folder;
  }
  fs::path prepare(const fs::path& model, const std::string& towers) {
    const auto root = job.fresh_folder("feature_items");
    comm::on_rank_zero(job.comm(), [&] { data::toy::write_small_set(root); });
    auto config = data::toy::small_config(root, job.fresh_folder("feature_shards"));
    config.version = model.string();
    config.workers = 1;
    config.store_features = towers;
    data::FrozenTowers frozen(data::tower_request(config), {job.fabric()});
    data::run_prepare(config, job.comm(), Log(), "", &frozen);
    return config.output_dir;
  }
  TrainRequest request(const std::string& name, const fs::path& model, const fs::path& shards) {
    TrainRequest r;
    r.train = job.config();
    r.train.version = model.string();
    r.train.random_init = false;
    r.train.log_base_dir = job.folders().scratch.string();
    r.train.exp_name = name;
    r.train.max_steps = 3;
    r.train.steps_per_epoch = 3;
    r.train.warmup_steps = 1;
    r.train.vis_samples = 1;
    r.train.export_merged = false;
    r.loader.shards = r.val_shards = shards.string();
    r.loader.batch_size = 1;
    r.loader.global_batch_size = 4;
    r.loader.workers = 1;
    r.loader.model_max_length = 400;
    return r;
  }
  void train(const TrainRequest& r) {
    EXPECT_EQ(run_training(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log()), ExitStatus::done);
  }
  static std::vector<double> series(const TrainRequest& r, const std::string& key) {
    std::vector<double> values;
    for (const auto& [step, value] : read_series(fs::path(r.train.run_dir()) / "metrics.jsonl", key))
      values.push_back(value);
    return values;
  }
  toy::Job job;
};

TEST_F(StoredFeaturesTest, GiveTheLossesThatTheTowersGive) {
  const auto folder = model("with_towers", 7);
  for (const char* towers : {"clip,sam", "clip", "sam"}) {
    const auto shards = prepare(folder, towers);
    const auto stored = request("stored", folder, shards);
    auto run = request("run", folder, shards);
    run.loader.stored_features = false;
    for (const auto& r : {stored, run}) comm::on_rank_zero(job.comm(), [&] { fs::remove_all(r.train.run_dir()); });
    train(stored);
    train(run);
    for (const char* key : {"loss", "ce_loss", "mask_loss", "grad_norm", "val_giou"}) {
      const auto a = series(stored, key);
      const auto b = series(run, key);
      ASSERT_EQ(a.size(), b.size());
      ASSERT_FALSE(a.empty());
      // Features have the eight bits of bf16.
      for (std::size_t i = 0; i < a.size(); ++i) EXPECT_LE(std::abs(a[i] - b[i]), 1e-2 * std::abs(b[i])) << key << i;
    }
    EXPECT_NE(series(stored, "loss"), series(run, "loss"));  // so the towers did not run
  }
}

TEST_F(StoredFeaturesTest, OfOtherWeightsAreRefusedUnlessToldNotToUseThem) {
  const auto shards = prepare(model("one", 7), "clip,sam");
  auto r = request("other", model("another", 8), shards);
  const auto said = message_of<RequestError>([&] { train(r); });
  EXPECT_NE(said.find("'clip'"), std::string::npos) << said;
  EXPECT_NE(said.find("--stored_features false"), std::string::npos) << said;
  r.loader.stored_features = false;
  train(r);
}

TEST_F(StoredFeaturesTest, AreNotUsedWhereTheTowerTrains) {
  const auto folder = model("trained", 7);
  const auto shards = prepare(folder, "clip,sam");
  auto with = request("scope_full", folder, shards);
  with.train.train_scope = "full";
  with.train.lora_r = 0;
  auto without = with;
  without.train.exp_name = "scope_full_plain";
  without.loader.stored_features = false;
  train(with);
  train(without);
  EXPECT_EQ(series(with, "loss"), series(without, "loss"));
}

TEST_F(StoredFeaturesTest, AllowNoAugmentation) {
  const auto folder = model("augmented", 7);
  auto r = request("augmented", folder, prepare(folder, "clip"));
  r.loader.augment.flip = 0.5;
  const auto said = message_of<RequestError>([&] { train(r); });
  EXPECT_NE(said.find("augmentation is off"), std::string::npos) << said;
}

}  // namespace
}  // namespace tessera::train
