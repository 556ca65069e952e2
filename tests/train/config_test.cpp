#include "tessera/train/config.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;
using testing_support::TempDir;

struct Parsed {
  TrainConfig config;
  Options::Outcome outcome;
};

Parsed parse(std::vector<std::string> args) {
  Parsed out;
  Options options("tessera train", "");
  bind(options, out.config);
  args.insert(args.begin(), {"--version", "folder"});
  out.outcome = options.parse(args);
  settle(out.config, options);
  return out;
}

std::string refusal(const std::vector<std::string>& args) {
  const auto config = parse(args).config;
  return message_of<RequestError>([&] { validate(config); });
}

TEST(TrainConfig, DefaultsAreTheReferences) {  // LISA train_ds.py, parse_args
  const auto c = parse({}).config;
  EXPECT_EQ(c.lr, 3e-4);
  EXPECT_EQ(c.beta1, 0.9);
  EXPECT_EQ(c.beta2, 0.95);
  EXPECT_EQ(c.epochs, 10);
  EXPECT_EQ(c.steps_per_epoch, 500);
  EXPECT_EQ(c.total_steps(), 5000);
  EXPECT_EQ(c.ce_loss_weight, 1.0);
  EXPECT_EQ(c.bce_loss_weight, 2.0);
  EXPECT_EQ(c.dice_loss_weight, 0.5);
  EXPECT_EQ(c.lora_r, 8);
  EXPECT_EQ(c.lora_alpha, 16.0);
  EXPECT_EQ(c.lora_dropout, 0.05);
  EXPECT_EQ(c.lora_target_modules, "q_proj,v_proj");
  EXPECT_FALSE(c.out_dim.has_value());  // 256 by config.json
  EXPECT_EQ(c.print_freq, 1);
  EXPECT_EQ(c.log_base_dir, "./runs");
  EXPECT_EQ(c.exp_name, "lisa");
  EXPECT_EQ(c.run_dir(), "./runs/lisa");
  EXPECT_TRUE(c.train_mask_decoder && c.engine.gradient_checkpointing && c.auto_resume);
  EXPECT_FALSE(c.no_eval || c.eval_only);
  EXPECT_TRUE(c.resume.empty());
  EXPECT_NO_THROW(validate(c));
}

TEST(TrainConfig, ScheduleDefaultsAreTheReferencesDeepSpeedSettings) {  // train_ds.py, ds_config
  const auto c = parse({}).config;
  EXPECT_EQ(c.weight_decay, 0.0);
  EXPECT_EQ(c.max_grad_norm, 1.0);
  EXPECT_EQ(c.lr_scheduler_type, "warmup_decay");
  EXPECT_EQ(c.warmup_steps, 100);
}

TEST(TrainConfig, FlagsReachTheFieldsOfTheirName) {
  const auto c = parse({"--lr", "0.01", "--lora_r", "4", "--epochs", "2", "--steps_per_epoch", "7", "--log_base_dir",
                        "a", "--exp_name", "b", "--train_mask_decoder", "false", "--dice_loss_weight", "3"})
                     .config;
  EXPECT_EQ(c.version, "folder");
  EXPECT_EQ(c.lr, 0.01);
  EXPECT_EQ(c.lora_r, 4);
  EXPECT_EQ(c.total_steps(), 14);
  EXPECT_EQ(c.run_dir(), "a/b");
  EXPECT_FALSE(c.train_mask_decoder);
  EXPECT_EQ(c.dice_loss_weight, 3.0);
}

TEST(TrainConfig, MaxStepsOverridesTheEpochs) {
  EXPECT_EQ(parse({"--max_steps", "3"}).config.total_steps(), 3);
}

TEST(TrainConfig, FlagsThatContradictEachOtherAreRefusedByName) {
  const struct {
    std::vector<std::string> args, words;
  } cases[] = {
      {{"--train_scope", "full"}, {"--train_scope", "--lora_r"}},
      {{"--lora_dropout", "1"}, {"--lora_dropout 1"}},
      {{"--epochs", "0"}, {"--epochs", "--max_steps"}},
      {{"--beta1", "1.5"}, {"--beta1 1.5"}},
      {{"--beta2", "1"}, {"--beta2 1"}},
  };
  for (const auto& c : cases) {
    const auto text = refusal(c.args);
    for (const auto& word : c.words)
      EXPECT_NE(text.find(word), std::string::npos) << "no '" << word << "' in: " << text;
  }
}

TEST(TrainConfig, LoraWithoutTargetsIsRefusedUnlessItsRankIsZero) {
  auto config = parse({}).config;
  config.lora_target_modules.clear();
  const auto text = message_of<RequestError>([&] { validate(config); });
  EXPECT_NE(text.find("--lora_target_modules is empty while --lora_r is 8"), std::string::npos) << text;
  config.lora_r = 0;
  EXPECT_NO_THROW(validate(config));
}

TEST(TrainConfig, WhatOnlyLooksContradictoryIsAccepted) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--train_scope", "full", "--lora_r", "0"},
                                               std::vector<std::string>{"--epochs", "0", "--max_steps", "1"},
                                               std::vector<std::string>{"--epochs", "0", "--eval_only"}}) {
    EXPECT_EQ(refusal(args), "(nothing was thrown)") << args.front();
  }
}

TEST(TrainConfig, ValuesOutsideTheirRangeAreRefusedByTheParser) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"--precision", "int8"}, std::vector<std::string>{"--train_scope", "half"},
        std::vector<std::string>{"--lora_r", "-1"}, std::vector<std::string>{"--steps_per_epoch", "0"}}) {
    const auto text = message_of<RequestError>([&] { parse(args); });
    EXPECT_NE(text.find(args[0].substr(2)), std::string::npos) << text;
  }
}

TEST(TrainConfig, FlagsOfTheReferenceThatCannotApplyAreTakenWithAWarning) {
  EXPECT_TRUE(parse({}).outcome.warnings.empty());
  for (const std::string name : {"local_rank", "start_epoch", "vis_save_path", "exclude_val"}) {
    const auto warnings = parse({"--" + name, "1"}).outcome.warnings;
    ASSERT_EQ(warnings.size(), 1U) << name;
    EXPECT_NE(warnings[0].find(name), std::string::npos) << warnings[0];
  }
}

TEST(TrainConfig, LlavasNamesSetOurSettings) {
  const auto c =
      parse({"--model_name_or_path", "vicuna", "--output_dir", "out", "--learning_rate", "2e-5", "--adam_beta2", "0.98",
             "--logging_steps", "7", "--cache_dir", "hub", "--bf16", "True", "--resume_from_checkpoint", "True"})
          .config;
  EXPECT_EQ(c.version, "vicuna");
  EXPECT_EQ(c.reference.conv_type, "folder");  // what --version says beside it
  EXPECT_EQ(c.run_dir(), "out");
  EXPECT_EQ(c.lr, 2e-5);
  EXPECT_EQ(c.beta2, 0.98);
  EXPECT_EQ(c.print_freq, 7);
  EXPECT_EQ(c.hub_dir, "hub");
  EXPECT_EQ(c.precision, "bf16");
  EXPECT_EQ(c.resume, "auto");
}

TEST(TrainConfig, StrategiesSayWhatTheStepsDo) {
  const auto strategy = [](const std::string& flag, const std::string& word) {
    return parse({flag, word, "--print_freq", "3"}).config;
  };
  EXPECT_EQ(strategy("--save_strategy", "steps").save_steps, 500);
  EXPECT_EQ(parse({"--save_strategy", "steps", "--save_steps", "9"}).config.save_steps, 9);
  EXPECT_EQ(parse({"--save_strategy", "epoch", "--save_steps", "9"}).config.save_steps, 0);
  EXPECT_EQ(strategy("--save_strategy", "no").reference.save_strategy, "no");
  EXPECT_TRUE(strategy("--evaluation_strategy", "no").no_eval);
  EXPECT_EQ(strategy("--eval_strategy", "steps").eval_steps, 3);
  EXPECT_EQ(parse({"--evaluation_strategy", "epoch", "--eval_steps", "9"}).config.eval_steps, 0);
}

TEST(TrainConfig, ValidationsEverySoManyStepsFollowTransformersLoggingSteps) {
  EXPECT_EQ(parse({"--evaluation_strategy", "steps"}).config.eval_steps, 500);
  EXPECT_EQ(parse({"--evaluation_strategy", "steps", "--eval_steps", "9"}).config.eval_steps, 9);
}

TEST(TrainConfig, WhatAsksForNothingIsTakenWithoutAWord) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--fsdp", ""},
                                               {"--push_to_hub", "False"},
                                               {"--report_to", "none"},
                                               {"--do_train"},
                                               {"--save_safetensors", "True"},
                                               {"--mm_use_im_patch_token", "no"},
                                               {"--explanatory", "0.1"}}) {
    EXPECT_TRUE(parse(args).outcome.warnings.empty()) << args[0];
  }
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--push_to_hub"},
                                               {"--report_to", "wandb"},
                                               {"--save_safetensors", "False"},
                                               {"--use_mm_start_end", "false"},
                                               {"--explanatory", "-1"}}) {
    EXPECT_EQ(parse(args).outcome.warnings.size(), 1U) << args[0];
  }
}

// A file with this text in the place of {}, and the flags after it.
struct DeepSpeed {
  TrainConfig config;
  std::vector<std::string> warnings;
};
DeepSpeed with_deepspeed(const std::string& json, std::vector<std::string> args = {}) {
  const TempDir folder;
  write_file(folder / "zero.json", json);
  DeepSpeed out;
  Options options("tessera train", "");
  bind(options, out.config);
  args.insert(args.end(), {"--deepspeed", (folder / "zero.json").string()});
  options.parse(args);
  out.warnings = settle(out.config, options);
  return out;
}

TEST(TrainConfig, DeepSpeedClipsWhereItsFileSaysSo) {
  EXPECT_EQ(with_deepspeed(R"({"zero_optimization": {"stage": 3}})").config.max_grad_norm, 0);
  EXPECT_EQ(with_deepspeed(R"({"gradient_clipping": "auto"})").config.max_grad_norm, 1);
  EXPECT_EQ(with_deepspeed(R"({"gradient_clipping": 0.3})").config.max_grad_norm, 0.3);
  EXPECT_EQ(with_deepspeed("{}", {"--max_grad_norm", "2"}).config.max_grad_norm, 2);
  const auto text = message_of<RequestError>([] {
    with_deepspeed(R"({"gradient_clipping": 0.3})", {"--max_grad_norm", "2"});
  });
  EXPECT_NE(text.find("zero.json: gradient_clipping is 0.3"), std::string::npos) << text;
}

TEST(TrainConfig, DeepSpeedsFileSettlesPrecisionOffloadAndOptimizer) {
  const auto found = with_deepspeed(R"({"bf16": {"enabled": true}, "fp16": {"enabled": "auto"},
    "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.8, 0.99], "weight_decay": 0.1}},
    "scheduler": {"type": "WarmupLR"}})");
  EXPECT_EQ(found.config.precision, "bf16");
  EXPECT_EQ(found.config.engine.offload_optimizer, "true");
  EXPECT_EQ(found.config.engine.offload_frozen, "auto");
  EXPECT_EQ(found.config.beta2, 0.99);
  EXPECT_EQ(found.config.weight_decay, 0.1);
  EXPECT_EQ(found.config.lr, TrainConfig().lr);
  ASSERT_EQ(found.warnings.size(), 2U);
  EXPECT_NE(found.warnings[1].find("WarmupLR"), std::string::npos);
  EXPECT_THROW(with_deepspeed(R"({"optimizer": {"type": "Lamb"}})"), RequestError);
  EXPECT_THROW(with_deepspeed(R"({"fp16": {"enabled": true}})", {"--bf16", "True"}), RequestError);
}

TEST(TrainConfig, PrecisionsThatContradictAreRefused) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--bf16", "true", "--fp16", "true"},
                                               std::vector<std::string>{"--bf16", "true", "--precision", "fp32"}}) {
    const auto text = message_of<RequestError>([&] { parse(args); });
    EXPECT_NE(text.find("contradicts"), std::string::npos) << text;
  }
  EXPECT_EQ(parse({"--bf16", "false"}).config.precision, "fp32");
}

TEST(TrainConfig, PassesOverTheDataAreWholeSteps) {
  TrainConfig c;
  set_recipe_defaults(c, "llava");
  EXPECT_EQ(c.num_train_epochs, 3.0);
  settle_lengths(c, 21, 4);
  EXPECT_EQ(c.steps_per_epoch, 6);
  EXPECT_EQ(c.total_steps(), 18);
  auto half = parse({"--num_train_epochs", "0.5"}).config;
  settle_lengths(half, 21, 4);
  EXPECT_EQ(half.total_steps(), 3);
  auto few = parse({"--num_train_epochs", "2", "--max_steps", "5"}).config;
  settle_lengths(few, 21, 4);
  EXPECT_EQ(few.total_steps(), 5);
  EXPECT_EQ(few.steps_per_epoch, 6);
  auto plain = parse({}).config;
  settle_lengths(plain, 21, 4);
  EXPECT_EQ(plain.total_steps(), 5000);
  EXPECT_NE(refusal({"--num_train_epochs", "0"}).find("--num_train_epochs"), std::string::npos);
}

TEST(TrainConfig, TheReferencesEpochsBeatTheRecipesPasses) {
  TrainConfig c;
  set_recipe_defaults(c, "llava");
  Options options("tessera train", "");
  bind(options, c);
  options.parse({"--epochs", "2", "--steps_per_epoch", "5"});
  settle(c, options);
  settle_lengths(c, 21, 4);
  EXPECT_EQ(c.total_steps(), 10);
}

TEST(TrainConfig, TransformersLetsWarmupStepsWinOverTheRatio) {
  auto c = parse({"--recipe", "llava", "--warmup_ratio", "0.5", "--warmup_steps", "3", "--max_steps", "20"}).config;
  EXPECT_EQ(schedule_of(c).warmup_steps, 3);
  c.warmup_steps = 0;
  EXPECT_EQ(schedule_of(c).warmup_steps, 10);
}

}  // namespace
}  // namespace tessera::train
