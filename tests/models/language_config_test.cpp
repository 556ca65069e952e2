#include "tessera/models/language_config.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

nlohmann::json llama_json(const char* type) {
  auto json = nlohmann::json::parse(R"({"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2})");
  json["model_type"] = type;
  return json;
}

TEST(LanguageConfig, TheFamilyFollowsFromTheModelType) {
  for (const char* type : {"llama", "llava", "llava_llama", "mistral", "llava_mistral", "qwen2", "llava_qwen2"}) {
    const auto config = LanguageConfig::from_json(llama_json(type));
    EXPECT_EQ(config.base(), "model") << type;
    EXPECT_EQ(std::get<LlamaConfig>(config.family).qkv_bias, std::string(type).find("qwen") != std::string::npos);
  }
  for (const char* type : {"mpt", "llava_mpt"}) {
    const auto json = nlohmann::json{{"model_type", type}, {"vocab_size", 9}, {"d_model", 12},
                                     {"n_layers", 1},      {"n_heads", 3},    {"expansion_ratio", 2}};
    const auto config = LanguageConfig::from_json(json);
    EXPECT_EQ(config.base(), "transformer");
    EXPECT_EQ(config.hidden_size(), 12);
    EXPECT_TRUE(config.tied());
    EXPECT_EQ(std::get<MptConfig>(config.family).intermediate_size, 24);
  }
  EXPECT_THROW(LanguageConfig::from_json(llama_json("gpt2")), RequestError);
}

TEST(LanguageConfig, AModelTypeLlavaIsToldApartByItsArchitecture) {
  auto json = llama_json("llava");
  json["architectures"] = {"LlavaQwen2ForCausalLM"};
  EXPECT_TRUE(std::get<LlamaConfig>(LanguageConfig::from_json(json).family).qkv_bias);
  json["architectures"] = {"LISAForCausalLM"};
  EXPECT_FALSE(std::get<LlamaConfig>(LanguageConfig::from_json(json).family).qkv_bias);
}

TEST(LanguageConfig, ATextConfigHasItsClassesDefaults) {
  const auto llama = LanguageConfig::from_json({{"model_type", "llama"}, {"vocab_size", 32064}}, "text_config", true);
  EXPECT_EQ(llama.hidden_size(), 4096);
  EXPECT_EQ(llama.vocab_size(), 32064);
  const auto mistral = LanguageConfig::from_json({{"model_type", "mistral"}}, "text_config", true);
  EXPECT_EQ(std::get<LlamaConfig>(mistral.family).kv_heads, 8);
  EXPECT_EQ(std::get<LlamaConfig>(mistral.family).window, 4096);
  const auto qwen = LanguageConfig::from_json({{"model_type", "qwen2"}, {"sliding_window", 64}}, "text_config", true);
  EXPECT_EQ(std::get<LlamaConfig>(qwen.family).intermediate_size, 22016);
  EXPECT_EQ(std::get<LlamaConfig>(qwen.family).window, 0) << "use_sliding_window is off";
  const auto mpt = LanguageConfig::from_json({{"model_type", "mpt"}}, "text_config", true);
  EXPECT_EQ(mpt.hidden_size(), 2048);
  EXPECT_THROW(LanguageConfig::from_json({{"model_type", "llama"}}), RequestError) << "a whole config names its sizes";
}

// Each would exhaust memory, or overflow, long before a weight is looked for.
TEST(LanguageConfig, RefusesSizesThatNoModelHas) {
  for (const auto& [key, value] :
       {std::pair("num_hidden_layers", 999'999'999'999LL), std::pair("num_hidden_layers", 4097LL),
        std::pair("hidden_size", 1LL << 40), std::pair("vocab_size", (1LL << 31) + 1)}) {
    auto json = llama_json("llama");
    json[key] = value;
    EXPECT_THROW(LanguageConfig::from_json(json), RequestError) << key;
  }
}

// Each would be computed otherwise without a word.
TEST(LanguageConfig, RefusesWhatOtherFamiliesHave) {
  const auto refusal = [](const nlohmann::json& json) -> std::string {
    try {
      (void)LanguageConfig::from_json(json);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  };
  auto json = llama_json("qwen2");
  json["layer_types"] = {"full_attention"};
  EXPECT_EQ(refusal(json), "");
  json["layer_types"] = {"sliding_attention"};
  EXPECT_NE(refusal(json).find("'layer_types'"), std::string::npos);
  json.update({{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 0}});
  EXPECT_EQ(refusal(json), "");
  for (const char* type : {"yarn", "longrope", "su"}) {
    json = llama_json("llama");
    json["rope_scaling"] = {{"rope_type", type}, {"factor", 2}};
    EXPECT_NE(refusal(json).find(type), std::string::npos);
  }
  json = llama_json("llama");
  json["partial_rotary_factor"] = 1.0;
  EXPECT_EQ(refusal(json), "");
  json["partial_rotary_factor"] = 0.5;
  EXPECT_NE(refusal(json).find("'partial_rotary_factor'"), std::string::npos);
  json = llama_json("llama");
  json["rope_parameters"] = {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}};
  EXPECT_NE(refusal(json).find("rope_parameters: 'partial_rotary_factor'"), std::string::npos);
  json["rope_parameters"] = {{"full_attention", {{"rope_theta", 5}}}};
  EXPECT_NE(refusal(json).find("'full_attention'"), std::string::npos);
}

TEST(LanguageConfig, RopeScalingComesBeforeRopeParameters) {
  const auto rope = [](const nlohmann::json& json) {
    return std::get<LlamaConfig>(LanguageConfig::from_json(json).family).rope;
  };
  auto json = llama_json("llama");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7.0}};
  EXPECT_EQ(rope(json).theta, 7.0);
  json["rope_scaling"] = nlohmann::json::object();
  EXPECT_EQ(rope(json).theta, 7.0);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  json["rope_theta"] = 5.0;
  EXPECT_EQ(rope(json).theta, 5.0);
  EXPECT_EQ(rope(json).factor, 2.0);
}

TEST(LanguageConfig, MakesTheModelOfItsFamily) {
  auto config = LanguageConfig::from_json(llama_json("qwen2"));
  config.set_vocab_size(40);
  const auto model = make_language_model(config);
  EXPECT_EQ(model->vocab_size(), 40);
  nn::ModelLayout layout;
  model->add_embedding(layout);
  model->add_decoder(layout);
  EXPECT_NE(layout.find("model.layers.0.self_attn.k_proj.bias"), nullptr);
  EXPECT_EQ(layout.find("model.layers.0.self_attn.o_proj.bias"), nullptr);
}

}  // namespace
}  // namespace tessera::models
