// Whole runs with each kind of adapter, on as many ranks as this program was started with.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/train/export.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/trainer.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::close;

class AdapterRuns : public testing::Test {
 protected:
  AdapterRuns() {
    auto model = job.load(job.config());
    base = job.fresh_folder("base_for_adapters");
    export_merged(model, base, "fp32", Log());
  }
  TrainRequest request(const std::string& name, std::int64_t steps) {
    TrainRequest r;
    r.train = job.config();
    r.train.version = base.string();
    r.train.random_init = false;
    r.train.train_scope = "lora";
    r.train.log_base_dir = job.folders().scratch.string();
    r.train.exp_name = name;
    r.train.max_steps = steps;
    r.train.steps_per_epoch = 2;
    r.train.lr = 0.01;
    r.train.lr_scheduler_type = "constant";
    r.train.no_eval = true;
    r.loader.shards = job.folders().shards.string();
    r.loader.batch_size = 1;
    r.loader.global_batch_size = 2;
    r.loader.workers = 1;
    r.loader.model_max_length = 400;
    return r;
  }
  fs::path run(const TrainRequest& r) {
    EXPECT_EQ(run_training(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log()), ExitStatus::done);
    return r.train.run_dir();
  }
  static std::vector<std::pair<double, double>> series(const fs::path& run, const char* key) {
    return read_series(run / "metrics.jsonl", key);
  }
  toy::Job job;
  fs::path base;
};

TEST_F(AdapterRuns, AdaLoraGoesOnAsIfItHadNeverStopped) {
  auto r = request("adalora", 6);
  r.train.adapter.peft_type = "adalora";
  r.train.adapter.init_r = 4;
  r.train.adapter.target_r = 2;
  r.train.adapter.tinit = 1;
  r.train.adapter.tfinal = 1;
  r.train.adapter.total_step = 6;
  const fs::path whole = run(r);
  auto in_two = r;
  in_two.train.exp_name = "adalora_in_two";
  in_two.train.max_steps = 4;
  run(in_two);
  in_two.train.max_steps = 6;
  const fs::path resumed = run(in_two);
  for (const char* key : {"loss", "orth_reg", "grad_norm"}) EXPECT_EQ(series(resumed, key), series(whole, key)) << key;
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json"}) {
    EXPECT_EQ(read_file(resumed / "adapter" / name), read_file(whole / "adapter" / name)) << name;
  }
  EXPECT_GT(series(whole, "orth_reg").front().second, 0.1);
  EXPECT_GT(series(whole, "loss").front().second - series(whole, "ce_loss").front().second, 0.05);
  const auto config = nlohmann::json::parse(read_file(whole / "adapter/adapter_config.json"));
  std::int64_t left = 0;
  for (const auto& layer : config.at("rank_pattern")) left += std::count(layer.begin(), layer.end(), true);
  EXPECT_EQ(left, 8) << "four layers, two triplets each on average";
  const auto adapter =
      adapt::open_peft_folder(whole / "adapter", [](const std::string& n) { return std::optional(n); });
  EXPECT_EQ(adapter.config.targets.size(), 4U);
}

TEST_F(AdapterRuns, APrefixIsSavedBesideLoraAndAlone) {
  auto r = request("prefix_and_lora", 3);
  r.train.adapter.num_virtual_tokens = 3;
  const fs::path both = run(r);
  EXPECT_TRUE(fs::exists(both / "adapter/adapter_model.safetensors"));
  EXPECT_EQ(adapt::open_prefix_folder(both / "prefix").config.num_virtual_tokens, 3);
  EXPECT_FALSE(fs::exists(both / "adapter/non_lora_trainables.bin"));

  r = request("prefix", 3);
  r.train.lora_r = 0;
  r.train.adapter.num_virtual_tokens = 3;
  r.train.adapter.prefix_projection = true;
  r.train.adapter.encoder_hidden_size = 5;
  r.train.export_merged = true;
  const fs::path alone = run(r);
  EXPECT_FALSE(fs::exists(alone / "adapter"));
  const auto prefix = adapt::open_prefix_folder(alone / "prefix");
  EXPECT_EQ(prefix.weights->tensors().front().shape,
            adapt::open_prefix_folder(both / "prefix").weights->tensors().front().shape);
  const auto losses = series(alone, "loss");
  EXPECT_NE(losses.front().second, losses.back().second);
  // Nothing but the prefix has changed.
  const auto before = io::open_weights(base), after = io::open_weights(alone / "merged");
  for (const auto& tensor : before->tensors()) {
    EXPECT_TRUE(close(io::read_tensor(*after, tensor.name), io::read_tensor(*before, tensor.name), 0, 0))
        << tensor.name;
  }
}

TEST_F(AdapterRuns, AnAdapterThatBeganInTheBaseIsSavedForTheBaseAsItWas) {
  const double plain = series(run(request("lora_of_nothing", 1)), "loss").front().second;
  for (const std::string init : {"pissa", "pissa_niter_3", "olora"}) {
    auto r = request(init, 2);
    r.train.adapter.init_lora_weights = init;
    r.train.lora_dropout = 0;  // which would drop a part of the base that the adapter took over
    r.train.export_merged = true;
    const fs::path folder = run(r);
    EXPECT_NEAR(series(folder, "loss").front().second, plain, 1e-4 * plain) << "it begins without effect";
    const auto adapter =
        adapt::open_peft_folder(folder / "adapter", [](const std::string& n) { return std::optional(n); });
    EXPECT_EQ(adapter.config.layers.begin()->second.rank, 2 * r.train.lora_r);
    const auto merged = adapt::merged_source(io::open_weights(base), adapter);
    const auto exported = io::open_weights(folder / "merged");
    for (const std::string& layer : adapter.config.targets) {
      const std::string name = layer + ".weight";
      EXPECT_TRUE(close(io::read_tensor(*merged, name), io::read_tensor(*exported, name), 1e-4, 1e-5)) << name;
      EXPECT_FALSE(close(io::read_tensor(*merged, name), io::read_tensor(*io::open_weights(base), name), 1e-4, 1e-5));
    }
  }
}

}  // namespace
}  // namespace tessera::train
