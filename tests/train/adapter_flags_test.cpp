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

TEST(AdapterFlags, BiasesOfTheBaseTrainByTheirKind) {
  for (const auto& [kind, wanted] : std::vector<std::pair<std::string, Names>>{
           {"none", {}},
           {"true", {}},
           {"all", {"model.layers.0.q_proj.bias", "model.layers.0.k_proj.bias"}},
           {"lora_only", {"model.layers.0.q_proj.bias", "model.vision_tower.q_proj.bias"}}}) {
    nn::ModelLayout layout;
    const nn::Scope scope(layout, layout.add_unit("all"), "model");
    for (const char* name : {"layers.0.q_proj", "layers.0.k_proj", "vision_tower.q_proj"})
      nn::Linear(scope, name, 8, 8, true);
    auto config = config_of({"--target_modules", "q_proj", "--lora_bias", kind});
    config.rank = 2;
    auto lora = adapt::attach_lora(layout, config);
    const auto marked = mark_biases(parsed({"--lora_bias", kind}), layout, lora);
    EXPECT_EQ(marked, static_cast<std::int64_t>(wanted.size())) << kind;
    EXPECT_EQ(lora.saved.size(), wanted.size()) << "they are in the adapter's file";
    Names found;
    for (const auto& p : layout.params()) {
      if (p->trainable && p->unit != lora.unit) found.push_back(p->name);
    }
    EXPECT_EQ(found, wanted) << kind;
  }
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
  EXPECT_TRUE(config_of({"--lora_bias", "true"}).bias);
  EXPECT_FALSE(config_of({"--lora_bias", "all"}).bias);
  EXPECT_EQ(config_of({"--init_lora_weights", "gaussian"}).init, adapt::LoraInit::gaussian);
  EXPECT_EQ(config_of({"--init_lora_weights", "false"}).init, adapt::LoraInit::both);
  EXPECT_EQ(config_of({"--modules_to_save", "lm_head,norm"}).modules_to_save, (Names{"lm_head", "norm"}));
}

TEST(AdapterFlags, AdapterMayBeginInTheBase) {
  EXPECT_EQ(config_of({"--init_lora_weights", "olora"}).init, adapt::LoraInit::olora);
  EXPECT_LT(config_of({"--init_lora_weights", "pissa"}).pissa_iterations, 0);
  const auto config = config_of({"--init_lora_weights", "pissa_niter_16"});
  EXPECT_EQ(config.init, adapt::LoraInit::pissa);
  EXPECT_EQ(config.pissa_iterations, 16);
  for (const char* text : {"pissa_niter_", "pissa_niter_-1", "eva"})
    EXPECT_THROW(config_of({"--init_lora_weights", text}), RequestError) << text;
}

TEST(AdapterFlags, AdaLoraHasPeftsDefaultsAndItsFlags) {
  EXPECT_FALSE(config_of({}).adalora.has_value());
  adapt::LoraConfig config;
  apply(parsed({"--peft_type", "adalora"}), config, 70);
  ASSERT_TRUE(config.adalora.has_value());
  EXPECT_EQ(config.adalora->init_r, 12);
  EXPECT_EQ(config.adalora->target_r, 8);
  EXPECT_EQ(config.adalora->total_step, 70);
  config = config_of({"--peft_type",       "adalora", "--init_r",        "6",   "--target_r",      "3",
                      "--tinit",           "5",       "--tfinal",        "7",   "--deltaT",        "2",
                      "--total_step",      "90",      "--adalora_beta1", "0.5", "--adalora_beta2", "0.6",
                      "--orth_reg_weight", "0.1"});
  const adapt::AdaLoraConfig& c = *config.adalora;
  EXPECT_EQ((std::vector{c.init_r, c.target_r, c.tinit, c.tfinal, c.delta_t, c.total_step}),
            (std::vector<std::int64_t>{6, 3, 5, 7, 2, 90}));
  EXPECT_EQ((std::vector{c.beta1, c.beta2, c.orth_reg_weight}), (std::vector{0.5, 0.6, 0.1}));
  EXPECT_THROW(config_of({"--peft_type", "adalora", "--init_lora_weights", "gaussian"}), RequestError);
  for (const char* flag : {"--target_r", "--init_r", "--tinit", "--tfinal", "--deltaT", "--total_step",
                           "--adalora_beta1", "--adalora_beta2", "--orth_reg_weight"}) {
    const auto text = message_of<RequestError>([&] { config_of({flag, "1"}); });
    EXPECT_NE(text.find(std::string(flag) + " needs --peft_type adalora"), std::string::npos) << text;
  }
}

TEST(AdapterFlags, APrefixIsAskedForByItsTokens) {
  EXPECT_FALSE(prefix_of(parsed({})).has_value());
  const auto prefix =
      prefix_of(parsed({"--num_virtual_tokens", "9", "--prefix_projection", "--encoder_hidden_size", "7"}));
  ASSERT_TRUE(prefix.has_value());
  EXPECT_EQ(prefix->num_virtual_tokens, 9);
  EXPECT_TRUE(prefix->prefix_projection);
  EXPECT_EQ(prefix->encoder_hidden_size, 7);
  for (const auto& args : {Names{"--prefix_projection"}, Names{"--encoder_hidden_size", "7"},
                           Names{"--num_virtual_tokens", "9", "--encoder_hidden_size", "7"}})
    EXPECT_THROW(prefix_of(parsed(args)), RequestError) << args.front();
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
        Names{"--modules_to_save", "lm_head"}, Names{"--peft_type", "adalora"}, Names{"--init_r", "4"}}) {
    const auto text = message_of<RequestError>([&] { check_no_adapter(parsed(args)); });
    EXPECT_NE(text.find(args.front()), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace tessera::train
