#include "tessera/adapt/peft_config.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::adapt {
namespace {

TEST(PeftConfig, NamesGoToPeftAndBack) {
  const std::string ours = "model.layers.3.self_attn.q_proj.lora_A.default.weight";
  const std::string theirs = "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight";
  EXPECT_EQ(peft_file_name(ours), theirs);
  EXPECT_EQ(param_name_of_peft(theirs), ours);
  EXPECT_EQ(param_name_of_peft("base_model.model." + ours), ours);
  EXPECT_EQ(param_name_of_peft("base_model.model.lm_head.weight"), "");
  const std::string bias = "model.layers.3.self_attn.q_proj.lora_B.default.bias";
  EXPECT_EQ(peft_file_name(bias), "base_model.model.model.layers.3.self_attn.q_proj.lora_B.bias");
  EXPECT_EQ(param_name_of_peft(peft_file_name(bias)), bias);
  EXPECT_EQ(param_name_of_peft("base_model.model.model.layers.3.self_attn.q_proj.bias"), "");
  const std::string magnitude = "lm_head.lora_magnitude_vector.default.weight";
  EXPECT_EQ(peft_file_name(magnitude), "base_model.model.lm_head.lora_magnitude_vector");
  for (const char* tail : {"", ".default", ".weight", ".default.weight"}) {
    EXPECT_EQ(param_name_of_peft(std::string("base_model.model.lm_head.lora_magnitude_vector") + tail), magnitude);
  }
  EXPECT_EQ(peft_file_name("model.embed_tokens.weight"), "base_model.model.model.embed_tokens.weight");
}

TEST(PeftConfig, ReadsPeftsConfigurationAndRefusesWhatItCannotDo) {
  const auto config = lora_config_from_json(parse_json(
      R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "modules_to_save": null})", "a.json"));
  EXPECT_EQ(config.rank, 4);
  EXPECT_DOUBLE_EQ(config.scaling(), 2.0);
  EXPECT_EQ(lora_config_from_json(parse_json(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "all",
      "init_lora_weights": "orthogonal"})",
                                             "a.json"))
                .base_bias,
            BaseBias::all);
  for (const char* text :
       {R"({"peft_type": "IA3", "r": 4, "lora_alpha": 8})", R"({"peft_type": "LORA", "lora_alpha": 8})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "layer_replication": [[0, 1]]})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_4"})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"q": "many"}})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "some"})",
        R"({"peft_type": "LORA", "r": "4", "lora_alpha": 8})"}) {
    EXPECT_THROW(lora_config_from_json(parse_json(text, "a.json")), RequestError) << text;
  }
}

struct Attention {
  nn::ModelLayout layout;
  nn::Scope scope{layout, layout.add_unit("u"), "model.layers.0"};
  nn::Linear q{scope, "q_proj", 8, 8, false}, k{scope, "k_proj", 8, 8, false}, head{scope, "lm_head", 8, 8, false};
};

nlohmann::json written(const LoraConfig& config) {
  Attention m;
  return nlohmann::json::parse(peft_config_json(attach_lora(m.layout, config), "the/base"));
}

LoraConfig peft_rules() {
  LoraConfig config;
  config.rank = 4;
  config.exclude.clear();
  config.match = TargetMatch::suffix;
  config.targets = {"q_proj", "k_proj"};
  return config;
}

TEST(PeftConfig, WritesPeftsRulesAsTheyWereGiven) {
  LoraConfig config = peft_rules();
  config.dora = config.rslora = true;
  config.init = LoraInit::gaussian;
  config.layers_to_transform = {0};
  config.layers_pattern = {"layers"};
  config.rank_pattern = {{"k_proj", 2}};
  config.alpha_pattern = {{"q_proj", 3.5}};
  config.modules_to_save = {"lm_head"};
  const nlohmann::json json = written(config);
  EXPECT_EQ(json.at("target_modules"), (std::vector<std::string>{"q_proj", "k_proj"}));
  EXPECT_EQ(json.at("layers_to_transform"), std::vector<int>{0});
  EXPECT_EQ(json.at("layers_pattern"), std::vector<std::string>{"layers"});
  EXPECT_EQ(json.at("rank_pattern"), nlohmann::json({{"k_proj", 2}}));
  EXPECT_EQ(json.at("alpha_pattern"), nlohmann::json({{"q_proj", 3.5}}));
  EXPECT_EQ(json.at("modules_to_save"), std::vector<std::string>{"lm_head"});
  EXPECT_EQ(json.at("init_lora_weights"), "gaussian");
  EXPECT_EQ(json.at("use_dora"), true);
  EXPECT_EQ(json.at("use_rslora"), true);
  const LoraConfig read = lora_config_from_json(parse_json(json.dump(), "a.json"));
  EXPECT_TRUE(read.dora && read.rslora);
  EXPECT_EQ(read.init, LoraInit::gaussian);
  EXPECT_EQ(read.layer("model.layers.0.k_proj").rank, 2);
  EXPECT_EQ(read.layer("model.layers.0.q_proj").alpha, 3.5);
  EXPECT_EQ(read.modules_to_save, std::vector<std::string>{"lm_head"});
}

TEST(PeftConfig, WritesAnExpressionAsAString) {
  LoraConfig config = peft_rules();
  config.match = TargetMatch::regex;
  config.targets = {".*[qk]_proj"};
  EXPECT_EQ(written(config).at("target_modules"), ".*[qk]_proj");
}

TEST(PeftConfig, WritesLayersByNameWhereTheRuleIsNotPefts) {
  LoraConfig config = peft_rules();
  config.match = TargetMatch::substring;
  config.targets = {"q_"};
  EXPECT_EQ(written(config).at("target_modules"), std::vector<std::string>{"model.layers.0.q_proj"});
}

TEST(PeftConfig, PatternsThatDependOnTheirOrderAreWrittenByLayer) {
  LoraConfig config = peft_rules();
  config.rank_pattern = {{"q_proj", 2}, {".*", 3}};  // PEFT sorts its file: ".*" would come first
  EXPECT_EQ(written(config).at("rank_pattern"),
            nlohmann::json({{"model.layers.0.q_proj", 2}, {"model.layers.0.k_proj", 3}}));
}

}  // namespace
}  // namespace tessera::adapt
