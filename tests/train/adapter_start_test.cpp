// Trainings that start from saved adapters, on as many ranks as this program was started with.
#include "tessera/train/adapter_start.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "models/golden.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/train/export.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/trainer.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::close;
using testing_support::message_of;
using testing_support::TempDir;

using Given = std::set<std::string, std::less<>>;
std::function<bool(std::string_view)> has(Given given) {
  return [given = std::move(given)](std::string_view flag) { return given.contains(flag); };
}

// A LoRA's folder without its tensors, which settling the flags does not ask for.
std::string write_config(const fs::path& folder, const nlohmann::json& changes) {
  nlohmann::json config{
      {"peft_type", "LORA"},         {"r", 5},         {"lora_alpha", 7.5},         {"lora_dropout", 0.25},
      {"use_rslora", true},          {"bias", "none"}, {"init_lora_weights", true}, {"modules_to_save", {"norm"}},
      {"target_modules", {"q_proj"}}};
  if (changes.is_object()) config.update(changes);
  fs::create_directories(folder);
  testing_support::write_file(folder / "adapter_config.json", config.dump());
  return folder.string();
}

TEST(AdapterStart, TheFoldersConfigurationStandsForTheFlags) {
  const TempDir dir;
  TrainConfig c;
  c.adapters = {"", write_config(dir.path() / "lora", {})};
  settle_adapters(c, has({}));
  EXPECT_EQ(c.adapters.size(), 1U);
  EXPECT_EQ(c.lora_r, 5);
  EXPECT_EQ(c.lora_alpha, 7.5);
  EXPECT_EQ(c.lora_dropout, 0.25);
  EXPECT_TRUE(c.adapter.use_rslora);
  EXPECT_FALSE(c.adapter.use_dora);
  EXPECT_EQ(c.adapter.modules_to_save, std::vector<std::string>{"norm"});
  EXPECT_EQ(c.lora_target_modules, "") << "the layers are those of the folder's tensors";

  TrainConfig llava;
  set_recipe_defaults(llava, "llava");
  llava.adapters = c.adapters;
  llava.lora_dropout = 0.5;
  settle_adapters(llava, has({"lora_dropout"}));
  EXPECT_TRUE(llava.lora_enable);
  EXPECT_EQ(llava.lora_dropout, 0.5) << "which is the training's";
}

TEST(AdapterStart, AFlagThatContradictsIsNamedWithTheFolder) {
  const TempDir dir;
  const auto folder = write_config(dir.path() / "lora", {});
  const auto refused = [&](const std::string& flag, const std::function<void(TrainConfig&)>& set) {
    TrainConfig c;
    c.adapters = {folder};
    set(c);
    const auto text = message_of<RequestError>([&] { settle_adapters(c, has({flag})); });
    EXPECT_NE(text.find("--" + flag), std::string::npos) << text;
    EXPECT_NE(text.find(folder), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  };
  refused("lora_r", [](TrainConfig& c) { c.lora_r = 8; });
  refused("lora_r", [](TrainConfig& c) { c.lora_r = 0; });
  refused("lora_alpha", [](TrainConfig& c) { c.lora_alpha = 16; });
  refused("use_rslora", [](TrainConfig& c) { c.adapter.use_rslora = false; });
  refused("use_dora", [](TrainConfig& c) { c.adapter.use_dora = true; });
  refused("init_lora_weights", [](TrainConfig& c) { c.adapter.init_lora_weights = "gaussian"; });
  refused("lora_bias", [](TrainConfig& c) { c.adapter.lora_bias = "all"; });
  refused("modules_to_save", [](TrainConfig& c) { c.adapter.modules_to_save = {"lm_head"}; });
  refused("peft_type", [](TrainConfig& c) { c.adapter.peft_type = "adalora"; });
  refused("lora_enable", [](TrainConfig& c) {
    c.recipe = "llava";
    c.lora_enable = false;
  });
  TrainConfig two;
  two.adapters = {folder, folder};
  EXPECT_NE(message_of<RequestError>([&] { settle_adapters(two, has({})); }).find("two adapters"), std::string::npos);
  TrainConfig none;
  none.adapters = {(dir.path() / "nowhere").string()};
  EXPECT_NE(message_of<RequestError>([&] { settle_adapters(none, has({})); }).find("nowhere"), std::string::npos);
  TrainConfig same;
  same.adapters = {folder};
  same.lora_r = 5;
  same.lora_alpha = 7.5;
  same.adapter.use_rslora = true;
  settle_adapters(same, has({"lora_r", "lora_alpha", "use_rslora"}));
}

TEST(AdapterStart, AdaLorasScheduleIsTheTrainingsAndItsTripletsTheFolders) {
  const TempDir dir;
  TrainConfig c;
  c.adapters = {write_config(dir.path() / "adalora", {{"peft_type", "ADALORA"},
                                                      {"use_rslora", false},
                                                      {"init_r", 6},
                                                      {"target_r", 3},
                                                      {"deltaT", 5},
                                                      {"total_step", 900}})};
  c.adapter.delta_t = 2;
  settle_adapters(c, has({"deltaT"}));
  EXPECT_EQ(c.adapter.peft_type, "adalora");
  EXPECT_EQ(c.adapter.init_r, 6);
  EXPECT_EQ(c.adapter.target_r, 3);
  EXPECT_EQ(c.adapter.delta_t, 2);
  EXPECT_FALSE(c.adapter.total_step) << "which counts the steps of another run";
  c.adapter.init_r = 4;
  EXPECT_NE(message_of<RequestError>([&] { settle_adapters(c, has({"init_r"})); }).find("--init_r 4"),
            std::string::npos);
}

TEST(AdapterStart, APrefixGoesOnAlone) {
  const TempDir dir;
  const auto folder = dir.path() / "prefix";
  fs::create_directories(folder);
  testing_support::write_file(folder / "adapter_config.json",
                              R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": true})");
  TrainConfig c;
  c.adapters = {folder.string()};
  settle_adapters(c, has({}));
  EXPECT_EQ(c.adapter.num_virtual_tokens, 4);
  EXPECT_FALSE(c.adapter.prefix_projection) << "the file holds what the network made";
  EXPECT_EQ(c.lora_r, 0);
  c.lora_r = 8;
  settle_adapters(c, has({"lora_r"}));
  EXPECT_EQ(c.lora_r, 8) << "a new LoRA beside it";
  c.adapter.num_virtual_tokens = 5;
  EXPECT_NE(message_of<RequestError>([&] { settle_adapters(c, has({"num_virtual_tokens"})); }).find("has 4"),
            std::string::npos);
}

class AdapterStartRuns : public testing::Test {
 protected:
  AdapterStartRuns() {
    auto model = job.load(job.config());
    base = job.fresh_folder("base");
    export_merged(model, base, "fp32", Log());
  }
  TrainRequest request(const std::string& name, std::int64_t steps, double rate) {
    TrainRequest r;
    r.train = job.config();
    r.train.version = base.string();
    r.train.random_init = false;
    r.train.lora_dropout = 0;
    r.train.log_base_dir = job.folders().scratch.string();
    r.train.exp_name = name;
    r.train.max_steps = steps;
    r.train.steps_per_epoch = 4;
    r.train.lr = rate;
    r.train.lr_scheduler_type = "constant";
    r.train.no_eval = true;
    r.loader.shards = job.folders().shards.string();
    r.loader.batch_size = 1;
    r.loader.global_batch_size = 3;
    r.loader.workers = 1;
    r.loader.model_max_length = 400;
    return r;
  }
  fs::path run(TrainRequest r, const std::vector<fs::path>& adapters = {}) {
    if (!adapters.empty()) {
      for (const auto& folder : adapters) r.train.adapters.push_back(folder.string());
      settle_adapters(r.train, has({"lora_dropout"}));
    }
    EXPECT_EQ(run_training(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log()), ExitStatus::done);
    return r.train.run_dir();
  }
  static double first_loss(const fs::path& run) { return read_series(run / "metrics.jsonl", "loss").front().second; }
  static void expect_same_tensors(const fs::path& a, const fs::path& b) {
    const auto first = io::open_weights(a), second = io::open_weights(b);
    // A layer that AdaLoRA left no triplet has empty tensors, and none once it was read.
    const auto filled = [](const io::SourcePtr& source) {
      return std::count_if(source->tensors().begin(), source->tensors().end(),
                           [](const io::TensorInfo& tensor) { return tensor.numel() > 0; });
    };
    ASSERT_EQ(filled(first), filled(second)) << a;
    for (const auto& tensor : first->tensors()) {
      if (tensor.numel() == 0) continue;
      EXPECT_TRUE(close(io::read_tensor(*first, tensor.name), io::read_tensor(*second, tensor.name), 0, 0))
          << a << " " << tensor.name;
    }
  }
  // A run of some steps leaves its adapter; one that starts from it with a rate of 0 begins where it ended, and leaves
  // the same files.
  void expect_round_trip(const std::string& name, const std::function<void(TrainConfig&)>& set,
                         bool same_config = true) {
    SCOPED_TRACE(name);
    auto first = request(name, 3, 0.01);
    first.train.export_merged = true;
    set(first.train);
    const fs::path done = run(first) / "adapter";
    auto still = request(name + "_again", 1, 0);
    if (first.train.adapter.peft_type == "adalora") still.train.adapter.total_step = 40;
    still.train.export_merged = false;
    still.train.train_scope = first.train.train_scope;
    const fs::path again = run(still, {done});
    expect_same_tensors(done / "adapter_model.safetensors", again / "adapter/adapter_model.safetensors");
    if (same_config) {
      EXPECT_EQ(read_file(done / "adapter_config.json"), read_file(again / "adapter/adapter_config.json"));
    }
    const bool others = fs::exists(done / "non_lora_trainables.bin");
    EXPECT_EQ(others, fs::exists(again / "adapter/non_lora_trainables.bin"));
    if (others) expect_same_tensors(done / "non_lora_trainables.bin", again / "adapter/non_lora_trainables.bin");
    // The merged model under a new LoRA, which is without effect, has the same loss on the same samples.
    auto merged = request(name + "_merged", 1, 0);
    merged.train.version = (done.parent_path() / "merged").string();
    merged.train.export_merged = false;
    merged.train.train_scope = "lora";
    const double wanted = first_loss(run(merged));
    const double offset = first.train.adapter.peft_type == "adalora"  // its regulariser is in the loss
                              ? 0.5 * read_series(again / "metrics.jsonl", "orth_reg").front().second
                              : 0;
    EXPECT_NEAR(first_loss(again) - offset, wanted, 2e-4 * wanted);
  }
  toy::Job job;
  fs::path base;
};

TEST_F(AdapterStartRuns, LoraWithAllThatTrainsBesideIt) {
  expect_round_trip("lisa", [](TrainConfig&) {});
}

TEST_F(AdapterStartRuns, OtherRanksAndAlphasAndModulesTrainedWhole) {
  expect_round_trip(
      "patterns",
      [](TrainConfig& c) {
        c.train_scope = "lora";
        c.adapter.target_modules = {"q_proj", "down_proj", "embed_tokens"};
        c.adapter.rank_pattern = {"1.mlp.down_proj=2"};
        c.adapter.alpha_pattern = {"q_proj=3"};
        c.adapter.use_rslora = true;
        c.adapter.modules_to_save = {"norm"};
      },
      false);
}

TEST_F(AdapterStartRuns, DoraKeepsItsMagnitudes) {
  expect_round_trip("dora", [](TrainConfig& c) {
    c.train_scope = "lora";
    c.adapter.use_dora = true;
  });
}

TEST_F(AdapterStartRuns, AdaLoraKeepsTheTripletsThatAreLeft) {
  expect_round_trip(
      "adalora",
      [](TrainConfig& c) {
        c.train_scope = "lora";
        c.adapter.peft_type = "adalora";
        c.adapter.init_r = 4;
        c.adapter.target_r = 1;
        c.adapter.total_step = 3;
      },
      false);
}

TEST_F(AdapterStartRuns, WhatCameWithTheAdapterStaysWithItThoughItDoesNotTrain) {
  const fs::path done = run(request("whole", 2, 0.01)) / "adapter";
  auto second = request("lora_alone", 2, 0.01);
  second.train.train_scope = "lora";
  const fs::path again = run(second, {done});
  expect_same_tensors(done / "non_lora_trainables.bin", again / "adapter/non_lora_trainables.bin");
  // And the checkpoint of a run that was started so is whole.
  second.train.max_steps = 3;
  run(second, {done});
  EXPECT_EQ(read_series(again / "metrics.jsonl", "loss").size(), 3U);
}

TEST_F(AdapterStartRuns, APrefixAndALoraTogether) {
  auto first = request("both", 2, 0.01);
  first.train.train_scope = "lora";
  first.train.adapter.num_virtual_tokens = 3;
  const fs::path done = run(first);
  auto still = request("both_again", 1, 0);
  still.train.train_scope = "lora";
  const fs::path again = run(still, {done / "adapter", done / "prefix"});
  for (const char* part : {"adapter", "prefix"}) {
    expect_same_tensors(done / part / "adapter_model.safetensors", again / part / "adapter_model.safetensors");
  }
}

TEST_F(AdapterStartRuns, AnAdapterForAnotherBaseIsRefused) {
  const fs::path done = run(request("one", 1, 0.01)) / "adapter";
  const fs::path other = job.fresh_folder("other");
  if (job.rank() == 0) {
    fs::copy(base, other, fs::copy_options::recursive);
    auto config = nlohmann::json::parse(read_file(other / "config.json"));
    config["num_hidden_layers"] = 1;
    write_file(other / "config.json", config.dump());
  }
  job.comm().barrier();
  auto r = request("wrong_base", 1, 0.01);
  r.train.version = other.string();
  const auto text = message_of<RequestError>([&] { run(r, {done}); });
  EXPECT_NE(text.find("model.layers.1.self_attn.q_proj"), std::string::npos) << text;
  EXPECT_NE(text.find(done.string()), std::string::npos) << text;
  r.train.version = base.string();
  r.train.adapter.rank_pattern = {"q_proj=2"};
  EXPECT_NE(message_of<RequestError>([&] { run(r, {done}); }).find("--rank_pattern"), std::string::npos);
  r.train.adapter.rank_pattern.clear();
  r.train.adapter.target_modules = {"q_proj"};
  const auto layers = message_of<RequestError>([&] { run(r, {done}); });
  EXPECT_NE(layers.find("--target_modules contradicts"), std::string::npos) << layers;
}

}  // namespace
}  // namespace tessera::train
