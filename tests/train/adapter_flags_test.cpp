#include "tessera/train/adapter_flags.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

using adapt::TargetMatch;
using testing_support::message_of;
using Names = std::vector<std::string>;

AdapterFlags parsed(const std::vector<std::string>& args) {
  AdapterFlags flags;
  Options options("test", "adapters");
  bind(options, flags, "Adapters");
  options.parse(args);
  return flags;
}

adapt::LoraConfig config_of(const std::vector<std::string>& args) {
  adapt::LoraConfig config;
  apply(parsed(args), config);
  return config;
}

TEST(AdapterFlags, WithoutThemLisasRulesStay) {
  const adapt::LoraConfig config = config_of({}), lisa;
  EXPECT_EQ(config.targets, lisa.targets);
  EXPECT_EQ(config.match, TargetMatch::substring);
  EXPECT_EQ(config.exclude, lisa.exclude);
  EXPECT_FALSE(config.rslora || config.dora);
}

TEST(AdapterFlags, TargetsAreNamesAnExpressionOrAllLinear) {
  auto config = config_of({"--target_modules", "q_proj", "v_proj,self_attn.o_proj"});
  EXPECT_EQ(config.match, TargetMatch::suffix);
  EXPECT_EQ(config.targets, (Names{"q_proj", "v_proj", "self_attn.o_proj"}));
  EXPECT_TRUE(config.exclude.empty());
  config = config_of({"--target_modules", ".*[qv]_proj"});
  EXPECT_EQ(config.match, TargetMatch::regex);
  EXPECT_EQ(config.targets, Names{".*[qv]_proj"});
  EXPECT_EQ(config_of({"--target_modules", "all-linear"}).match, TargetMatch::all_linear);
}

TEST(AdapterFlags, EveryOtherFlagSetsItsPart) {
  EXPECT_EQ(config_of({"--exclude_modules", "k_proj"}).exclude_modules, Names{"k_proj"});
  EXPECT_EQ(config_of({"--exclude_modules", ".*tower.*"}).exclude_match, TargetMatch::regex);
  EXPECT_EQ(config_of({"--layers_to_transform", "0", "3"}).layers_to_transform, (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(config_of({"--layers_pattern", "layers"}).layers_pattern, Names{"layers"});
  const auto config = config_of({"--rank_pattern", "^a=b.*=4", "q_proj=2", "--alpha_pattern", "k_proj=1.5"});
  EXPECT_EQ(config.rank_pattern, (std::vector<std::pair<std::string, std::int64_t>>{{"^a=b.*", 4}, {"q_proj", 2}}));
  EXPECT_EQ(config.alpha_pattern, (std::vector<std::pair<std::string, double>>{{"k_proj", 1.5}}));
  EXPECT_TRUE(config_of({"--use_rslora"}).rslora);
  EXPECT_TRUE(config_of({"--use_dora"}).dora);
  EXPECT_EQ(config_of({"--init_lora_weights", "gaussian"}).init, adapt::LoraInit::gaussian);
  EXPECT_EQ(config_of({"--init_lora_weights", "false"}).init, adapt::LoraInit::both);
  EXPECT_EQ(config_of({"--modules_to_save", "lm_head,norm"}).modules_to_save, (Names{"lm_head", "norm"}));
}

TEST(AdapterFlags, WhatIsNoNumberOrNoPairIsRefusedByTheFlagsName) {
  for (const auto& args : {Names{"--layers_to_transform", "one"}, Names{"--rank_pattern", "q_proj"},
                           Names{"--rank_pattern", "q_proj=2.5"}, Names{"--alpha_pattern", "=3"}}) {
    const auto text = message_of<RequestError>([&] { config_of(args); });
    EXPECT_NE(text.find(args.front()), std::string::npos) << text;
  }
}

TEST(AdapterFlags, NoneMayBeSetWithoutLora) {
  EXPECT_NO_THROW(check_no_adapter(parsed({})));
  for (const auto& args :
       {Names{"--target_modules", "q"}, Names{"--exclude_modules", "q"}, Names{"--layers_to_transform", "1"},
        Names{"--layers_pattern", "h"}, Names{"--rank_pattern", "q=1"}, Names{"--alpha_pattern", "q=1"},
        Names{"--use_rslora"}, Names{"--use_dora"}, Names{"--init_lora_weights", "gaussian"},
        Names{"--modules_to_save", "lm_head"}}) {
    const auto text = message_of<RequestError>([&] { check_no_adapter(parsed(args)); });
    EXPECT_NE(text.find(args.front()), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace tessera::train
