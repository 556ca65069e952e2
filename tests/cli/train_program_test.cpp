// `tessera train`, from the outside: equal on any number of ranks, resumable after a kill, clear about bad requests.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "cli/toy_run.hpp"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing_support::largest_difference;
using testing_support::ToyRun;

class TrainTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { toy = new ToyRun(); }
  static void TearDownTestSuite() {
    delete toy;
    toy = nullptr;
  }
  static void expect_ok(const testing_support::RunResult& r) { ASSERT_EQ(r.status, 0) << r.output; }
  // One line that says it, and nothing trained.
  static void expect_refused(const testing_support::RunResult& r, const std::vector<std::string>& words) {
    EXPECT_EQ(r.status, 2) << r.output;
    for (const auto& word : words)
      EXPECT_NE(r.output.find(word), std::string::npos) << "no '" << word << "' in:\n" << r.output;
    EXPECT_EQ(r.output.find("step 1/"), std::string::npos) << r.output;
  }
  static ToyRun* toy;
};
ToyRun* TrainTest::toy = nullptr;

constexpr const char* kKeys[] = {"loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "grad_norm"};

TEST_F(TrainTest, FullTrainingHasTheSameLossesOnOneToFourRanks) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    expect_ok(toy->train(ranks, "full" + std::to_string(ranks),
                         "--train_scope full --lora_r 0 --max_steps 20 --export_merged false"));
  }
  const auto first = toy->metric("full1", "loss");
  ASSERT_EQ(first.size(), 20U);
  EXPECT_LT(first.at(20), 0.9 * first.at(1));  // it learns, so equality says something
  for (int ranks = 2; ranks <= 4; ++ranks) {
    for (const char* key : kKeys) {
      EXPECT_EQ(toy->metric("full1", key), toy->metric("full" + std::to_string(ranks), key))  // to the last bit
          << key << " on " << ranks << " ranks";
    }
  }
}

TEST_F(TrainTest, LoraTrainingHasTheSameLossesOnOneToFourRanks) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    expect_ok(toy->train(ranks, "lora" + std::to_string(ranks),
                         "--lora_r 4 --lora_alpha 8 --max_steps 20 --export_merged false"));
  }
  for (int ranks = 2; ranks <= 4; ++ranks) {
    for (const char* key : kKeys) {
      EXPECT_EQ(toy->metric("lora1", key), toy->metric("lora" + std::to_string(ranks), key))
          << key << " on " << ranks << " ranks";
    }
  }
}

TEST_F(TrainTest, EveryOptimiserHasTheSameLossesOnOneAndThreeRanksAndAfterAResumeOnTwo) {
  for (const char* optimiser : {"adamw_8bit", "sgd --momentum 0.9", "lion"}) {
    const std::string name = std::string(optimiser).substr(0, std::string_view(optimiser).find(' '));
    const std::string flags = std::string("--lora_r 4 --export_merged false --lr_scheduler_type constant --optim ") +
                              optimiser + " --max_steps ";
    expect_ok(toy->train(1, name + "_one", flags + "5"));
    expect_ok(toy->train(3, name + "_three", flags + "3"));
    expect_ok(toy->train(2, name + "_three", flags + "5"));
    for (const char* key : kKeys) {
      EXPECT_EQ(toy->metric(name + "_one", key), toy->metric(name + "_three", key)) << optimiser << ", " << key;
    }
    EXPECT_EQ(toy->metric(name + "_three", "loss").size(), 5U);
    EXPECT_NE(toy->metric(name + "_one", "loss").at(5), toy->metric(name + "_one", "loss").at(1));
  }
  expect_refused(toy->train(1, "lion_one", "--lora_r 4 --max_steps 6"), {"--optim", "lion"});
}

TEST_F(TrainTest, AugmentedAndGroupedTrainingHasTheSameLossesOnTwoRanksAndAfterAResume) {
  const std::string flags =
      "--lora_r 4 --export_merged false --group_by_modality_length --augment_flip 0.5 --augment_crop_min_area 0.5 "
      "--augment_brightness 0.3 --save_steps 3 ";
  expect_ok(toy->train(1, "augmented1", flags + "--max_steps 5"));
  expect_ok(toy->train(2, "augmented2", flags + "--max_steps 5"));
  expect_ok(toy->train(1, "augmented3", flags + "--max_steps 5 --print_freq 1"));
  fs::remove_all(toy->dir() / "augmented3" / "checkpoints" / "step-5");
  expect_ok(toy->train(2, "augmented3", flags + "--max_steps 5"));  // goes on at step 4
  expect_ok(toy->train(1, "plain", "--lora_r 4 --export_merged false --max_steps 5"));
  for (const char* key : kKeys) {
    EXPECT_EQ(toy->metric("augmented1", key), toy->metric("augmented2", key)) << key;
    EXPECT_EQ(toy->metric("augmented1", key), toy->metric("augmented3", key)) << key;
  }
  EXPECT_NE(toy->metric("augmented1", "loss"), toy->metric("plain", "loss"));
  EXPECT_EQ(toy->metric("augmented1", "padding"), toy->metric("augmented2", "padding"));
  expect_refused(toy->train(1, "rates", flags + "--max_steps 1 --sample_rates 1"), {"--group_by_modality_length"});
}

TEST_F(TrainTest, GradientCheckpointingChangesNothing) {
  const std::string flags = "--lora_r 4 --max_steps 5 --export_merged false --keep_mib 0 ";
  expect_ok(toy->train(2, "recompute", flags + "--placement world --recompute all"));
  expect_ok(toy->train(2, "keep", flags + "--placement world --gradient_checkpointing false"));
  expect_ok(toy->train(2, "resident", flags + "--resident_frozen --prefetch 0"));
  EXPECT_LT(largest_difference(toy->metric("recompute", "loss"), toy->metric("keep", "loss")), 1e-6);
  EXPECT_LT(largest_difference(toy->metric("recompute", "loss"), toy->metric("resident", "loss")), 1e-6);
  EXPECT_LT(toy->metric("resident", "bytes_gathered").at(3), toy->metric("recompute", "bytes_gathered").at(3));
}

TEST_F(TrainTest, EveryWayToSpendMemoryHasTheSameLosses) {
  const std::string flags = "--lora_r 4 --max_steps 4 --export_merged false ";
  const auto planned = toy->train(2, "planned", flags);
  expect_ok(planned);
  EXPECT_NE(planned.output.find("plan: frozen weights resident"), std::string::npos) << planned.output;
  const std::vector<std::pair<std::string, std::string>> ways{
      {"sharded", "--placement world --keep_mib 0 --prefetch 2"},
      {"kept", "--placement world --keep_mib 64"},
      {"node", "--placement node --keep_mib 0"},
      {"half", "--recompute 0.5"},
      {"named", "--recompute layers.1"},
      {"together", "--placement world --layer_major 3 --keep_mib 0"},
      {"host", "--offload_frozen true --offload_optimizer true"},
  };
  for (const auto& [name, extra] : ways) {
    const auto result = toy->train(2, name, flags + extra);
    expect_ok(result);
    EXPECT_LT(largest_difference(toy->metric("planned", "loss"), toy->metric(name, "loss")), 1e-6) << name;
  }
  auto gathered = [](const std::string& name) { return toy->metric(name, "bytes_gathered").at(3); };
  EXPECT_LT(gathered("planned"), gathered("sharded"));
  EXPECT_LT(gathered("kept"), gathered("sharded"));
  EXPECT_LT(gathered("together"), 0.6 * gathered("sharded"));
  expect_ok(toy->train(2, "order_free", flags + "--reproducible false"));
  EXPECT_LT(largest_difference(toy->metric("planned", "loss"), toy->metric("order_free", "loss")), 1e-4);
}

TEST_F(TrainTest, TheBudgetDecidesAndTheLogSetsThePredictionBesideTheRun) {
  const std::string flags = "--lora_r 4 --max_steps 3 --export_merged false ";
  const auto roomy = toy->train(2, "roomy", flags);
  expect_ok(roomy);
  for (const char* words : {"predicted beside measured", "gathered in a step", "peak of a rank by plan", "plan: "}) {
    EXPECT_NE(roomy.output.find(words), std::string::npos) << words << roomy.output;
  }
  expect_refused(toy->train(2, "starved", flags + "--memory_budget 0.01"), {"--memory_budget", "smallest"});
  expect_refused(toy->train(2, "uneven", flags + "--layer_major 4"), {"--layer_major 4", "6"});
  expect_refused(toy->train(2, "unnamed", flags + "--recompute layer.7"), {"--recompute", "layer.7"});
}

TEST_F(TrainTest, ATraceHoldsTheWorkOfEveryRank) {
  const auto file = toy->dir() / "trace.json";
  expect_ok(toy->train(
      2, "traced",
      "--lora_r 4 --max_steps 2 --export_merged false --placement world --keep_mib 0 --trace " + file.string()));
  const auto trace = nlohmann::json::parse(testing_support::read_file(file));
  std::set<std::string> seen;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    const auto name = event.at("name").get<std::string>();
    const auto rank = std::to_string(event.at("pid").get<int>());
    seen.insert(rank + "/" + std::to_string(event.at("tid").get<int>()));
    seen.insert(rank + " " + name.substr(0, name.find(' ')));
    EXPECT_GE(event.at("ts").get<double>(), 0.0);
    EXPECT_GE(event.at("dur").get<double>(), 0.0);
  }
  for (const std::string rank : {"0", "1"}) {
    for (const std::string row : {"/0", "/1", "/2", "/3", " forward", " backward", " step", " data", " optimizer"}) {
      EXPECT_TRUE(seen.contains(rank + row)) << rank << row;
    }
  }
}

TEST_F(TrainTest, PlansForMachinesThatAreNotThere) {
  const auto plan = toy->tessera(0,
                                 "plan --model lisa-13b --ranks 64 --gpus_per_node 8 --link_gbs 50 --node_link_gbs 450 "
                                 "--memory_gib 80 --tflops 400");
  expect_ok(plan);
  for (const char* words : {"13,999,497,520", "365,853,156", "frozen weights", "matrix products", "step  ", "plan  "}) {
    EXPECT_NE(plan.output.find(words), std::string::npos) << words << plan.output;
  }
  const auto small = toy->tessera(0, "plan --model lisa-13b --ranks 64 --gpus_per_node 8 --memory_gib 24");
  expect_ok(small);
  EXPECT_NE(small.output, plan.output);
  expect_refused(toy->tessera(0, "plan --model lisa-13b --ranks 8 --memory_gib 2"), {"--memory_budget", "smallest"});
  expect_refused(toy->tessera(0, "plan --model lisa-7b --ranks 8 --gpus_per_node 3"), {"--gpus_per_node"});
}

TEST_F(TrainTest, AKilledRunGoesOnFromItsCheckpointAsIfNothingHadHappened) {
  const std::string flags = "--lora_r 4 --max_steps 12 --save_steps 4 --export_merged false --print_freq 1";
  expect_ok(toy->train(2, "whole", flags));
  // Killed between checkpoints: after step 6 has been logged, all ranks at once.
  const std::string mark = (toy->dir() / "killed" / "metrics.jsonl").string();
  std::thread killer([&] {
    for (int i = 0; i < 6000; ++i) {
      if (fs::exists(mark) && toy->metric("killed", "loss").size() >= 6) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    testing_support::run("pkill -KILL -f -- '^[^ ]*(tessera|mpirun) .*--exp_name killed'");
  });
  const auto killed = toy->train(2, "killed", flags);
  killer.join();
  ASSERT_NE(killed.status, 0) << "the run ended before it was killed";
  ASSERT_TRUE(fs::exists(toy->dir() / "killed/checkpoints/step-4"));
  fs::copy(toy->dir() / "killed", toy->dir() / "killed3", fs::copy_options::recursive);

  expect_ok(toy->train(2, "killed", flags + " --resume auto"));
  for (const char* key : {"loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "grad_norm", "tokens"}) {
    EXPECT_EQ(toy->metric("whole", key), toy->metric("killed", key)) << key;
  }
  expect_ok(toy->train(3, "killed3", flags + " --resume auto"));
  ASSERT_EQ(toy->metric("killed3", "loss").size(), 12U);
  EXPECT_EQ(toy->metric("whole", "loss"), toy->metric("killed3", "loss"));
}

TEST_F(TrainTest, ATerminationLeavesACheckpointAndStatus75) {
  const std::string flags =
      "--lora_r 4 --max_steps 4000 --save_steps 2000 --export_merged false --epochs 1 --steps_per_epoch 4000";
  std::thread stopper([&] {
    for (int i = 0; i < 6000; ++i) {
      if (fs::exists(toy->dir() / "stopped" / "metrics.jsonl") && !toy->metric("stopped", "loss").empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    testing_support::run("pkill -USR1 -f -- '^mpirun .*--exp_name stopped'");
  });
  const auto result = toy->train(2, "stopped", flags);
  stopper.join();
  EXPECT_EQ(result.status, 75) << result.output;
  int checkpoints = 0;
  for (const auto& entry : fs::directory_iterator(toy->dir() / "stopped/checkpoints")) {
    checkpoints += fs::exists(entry.path() / "manifest.json") ? 1 : 0;
  }
  EXPECT_EQ(checkpoints, 1);
}

TEST_F(TrainTest, ARankThatHangsEndsTheJobWithAReport) {
  // The rank started last stops dead after its first step; the other waits in a collective.
  const std::string rank = "^[^ ]*tessera train .*--log_base_dir " + toy->dir().string() + " --exp_name hung";
  std::thread stopper([&] {
    for (int i = 0; i < 6000; ++i) {
      if (fs::exists(toy->dir() / "hung" / "metrics.jsonl") && !toy->metric("hung", "loss").empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    testing_support::run("kill -STOP $(pgrep -n -f '" + rank + "')");
  });
  const auto result = toy->train(2, "hung", "--lora_r 4 --max_steps 4000 --warmup_steps 3 --comm_timeout_s 2");
  stopper.join();
  EXPECT_NE(result.status, 0);
  for (const char* words : {"has waited", "does not answer", "--comm_timeout_s", "last collectives of rank"}) {
    EXPECT_NE(result.output.find(words), std::string::npos) << "no '" << words << "' in:\n" << result.output;
  }
}

TEST_F(TrainTest, TheScheduleCheckPassesAWholeRun) {
  const std::string flags = "--lora_r 4 --max_steps 3 --export_merged false";
  expect_ok(toy->train(2, "unchecked", flags));
  expect_ok(toy->train(2, "checked", flags + " --check_schedule"));
  EXPECT_EQ(toy->metric("checked", "loss"), toy->metric("unchecked", "loss"));
  EXPECT_EQ(toy->metric("checked", "bytes_gathered"), toy->metric("unchecked", "bytes_gathered"));
}

TEST_F(TrainTest, TheRunFolderHoldsWhatTheContractNames) {
  expect_ok(
      toy->train(2, "folder", "--lora_r 4 --max_steps 4 --steps_per_epoch 2 --val_shards " + toy->shards().string()));
  const auto run = toy->dir() / "folder";
  for (const char* name :
       {"config.toml", "metrics.jsonl", "losses.png", "checkpoints/step-4/manifest.json",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/non_lora_trainables.bin",
        "merged/config.json", "merged/tokenizer.model", "merged/added_tokens.json"}) {
    EXPECT_TRUE(fs::exists(run / name)) << name;
  }
  bool best = false, events = false, overlays = false;
  for (const auto& e : fs::directory_iterator(run / "best")) best = best || fs::exists(e.path() / "manifest.json");
  for (const auto& e : fs::directory_iterator(run))
    events = events || e.path().filename().string().starts_with("events.out.tfevents");
  for (const auto& e : fs::directory_iterator(run / "overlays")) overlays = overlays || e.path().extension() == ".png";
  EXPECT_TRUE(best && events && overlays) << best << events << overlays;
  // The merged folder is a finished LISA: it evaluates as the run's last validation did.
  const auto eval = toy->tessera(3, "eval --version " + (run / "merged").string() + " --val_shards " +
                                        toy->shards().string() + " --output " + (run / "eval.json").string());
  expect_ok(eval);
  const auto giou = toy->metric("folder", "val_giou").rbegin()->second;
  const auto text = testing_support::read_file(run / "eval.json");
  EXPECT_NEAR(std::stod(text.substr(text.find("\"giou\":") + 7)), giou, 2e-3) << text;
  // PEFT opens the adapter, transformers the merged language model, TensorBoard the events.
  expect_ok(testing_support::run(std::string(TESSERA_PYTHON) + " " + TESSERA_SOURCE_DIR +
                                 "/tests/cli/check_exports.py " + run.string()));
  // And config.toml starts the same run again.
  expect_ok(
      toy->tessera(1, "train --config " + (run / "config.toml").string() + " --exp_name again --auto_resume false"));
  EXPECT_LT(largest_difference(toy->metric("folder", "loss"), toy->metric("again", "loss")), 1e-5);
}

TEST_F(TrainTest, MemoryPerRankIsPrintedAndShrinksWithTheRanks) {
  const auto one = toy->train(1, "memory1", "--lora_r 4 --max_steps 1 --export_merged false --placement world");
  const auto four = toy->train(4, "memory4", "--lora_r 4 --max_steps 1 --export_merged false --placement world");
  auto mib = [](const std::string& text) {
    const auto at = text.find("memory per rank: ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + 17));
  };
  ASSERT_GT(mib(four.output), 0) << four.output;
  EXPECT_NEAR(mib(one.output) / mib(four.output), 4.0, 0.2) << one.output << four.output;
}

TEST_F(TrainTest, BadRequestsAreRefusedBeforeAnyStep) {
  expect_refused(toy->train(2, "bad1", "--lora_rank 4"), {"lora_rank", "lora_r"});
  expect_refused(toy->train(2, "bad2", "--lora_r 4 --lora_target_modules q_prj"), {"q_prj"});
  expect_refused(toy->train(2, "bad3", "--global_batch_size 7"), {"7"});
  expect_refused(
      toy->tessera(2, "train --version " + (toy->dir() / "nowhere").string() + " --shards " + toy->shards().string()),
      {"nowhere"});
  expect_refused(toy->tessera(0, "trian"), {"trian", "train"});
  // Without weights and without --random_init nothing is trained silently from noise.
  expect_refused(toy->tessera(2, "train --version " + toy->model().string() + " --shards " + toy->shards().string() +
                                     " --log_base_dir " + toy->dir().string() + " --exp_name bad4"),
                 {"missing", "model.embed_tokens.weight"});
  EXPECT_FALSE(fs::exists(toy->dir() / "bad1"));
}

TEST_F(TrainTest, RanksThatWereStartedWithDifferentFlagsAreRefusedBeforeAnyStep) {
  const std::string second = "train --version " + toy->model().string() + " --random_init --shards " +
                             toy->shards().string() + " --log_base_dir " + toy->dir().string() +
                             " --exp_name apart --batch_size 1 --global_batch_size 12 --warmup_steps 3 --lora_r 2";
  const auto result = toy->train(1, "apart", "--lora_r 4 : -n 1 " TESSERA_PROGRAM " " + second);
  expect_refused(result, {"different plans", "rank 0 has", "rank 1 has"});
}

TEST_F(TrainTest, ShardsOfAnotherTokenizerOrCutShortAreRefused) {
  const auto other = toy->dir() / "other_model";
  fs::copy(toy->model(), other, fs::copy_options::recursive);
  testing_support::write_file(other / "added_tokens.json", R"({"<extra>": 640})");
  expect_refused(
      toy->tessera(2, "train --random_init --version " + other.string() + " --shards " + toy->shards().string() +
                          " --log_base_dir " + toy->dir().string() + " --exp_name bad5"),
      {"tokenizer", ".h5"});
  const auto cut = toy->dir() / "cut_shards";
  fs::copy(toy->shards(), cut, fs::copy_options::recursive);
  for (const auto& e : fs::directory_iterator(cut)) {
    if (e.path().filename().string().starts_with("train") && e.path().extension() == ".h5") {
      fs::resize_file(e.path(), fs::file_size(e.path()) / 2);
      expect_refused(toy->train(2, "bad6", "--shards " + cut.string()), {e.path().filename().string()});
      break;
    }
  }
}

TEST_F(TrainTest, ACheckpointOfAnotherModelIsRefused) {
  expect_ok(toy->train(1, "base", "--lora_r 4 --max_steps 1 --export_merged false"));
  const auto checkpoint = (toy->dir() / "base/checkpoints/step-1").string();
  expect_refused(toy->train(2, "bad7", "--lora_r 2 --resume " + checkpoint), {"step-1", "lora_A"});
  expect_refused(toy->train(2, "bad8", "--lora_r 4 --seed 43 --resume " + checkpoint), {"another base"});
  // What is in it, and whether it is sound.
  const auto shown = toy->tessera(0, "inspect " + checkpoint + " --verify");
  expect_ok(shown);
  for (const char* words : {"step 1,", "frozen base: not in it, digest", "best_metric", "every checksum is right"}) {
    EXPECT_NE(shown.output.find(words), std::string::npos) << words << shown.output;
  }
  const auto data = toy->dir() / "base/checkpoints/step-1/rank-00000-of-00001.safetensors";
  auto bytes = testing_support::read_file(data);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  testing_support::write_file(data, bytes);
  expect_refused(toy->tessera(0, "inspect " + checkpoint + " --verify"), {data.filename().string(), "is damaged"});
  expect_refused(toy->train(2, "bad9", "--lora_r 4 --resume " + checkpoint), {data.filename().string(), "is damaged"});
}

}  // namespace
}  // namespace tessera
