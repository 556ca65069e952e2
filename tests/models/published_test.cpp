// Descriptions of models as they were published: the keys that their config.json files have, and what is known of their
// sizes. Where the files themselves lie beside the source tree (../shared/data/configs), they are read as well.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "models/tower_folder.hpp"
#include "tessera/core/file.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/mpt.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kConfigs = fs::path(TESSERA_SOURCE_DIR) / "../shared/data/configs";

/// What is told here, and the file where it is at hand.
std::vector<json> both(json told, const char* file) {
  std::vector<json> out{std::move(told)};
  if (fs::exists(kConfigs / file)) out.push_back(json::parse(read_file(kConfigs / file)));
  return out;
}

json llama_of(std::int64_t hidden, std::int64_t vocab, double eps) {
  return {{"model_type", "llama"},           {"hidden_size", hidden},   {"intermediate_size", 11008},
          {"num_attention_heads", 32},       {"num_hidden_layers", 32}, {"hidden_act", "silu"},
          {"max_position_embeddings", 2048}, {"rms_norm_eps", eps},     {"vocab_size", vocab}};
}

std::int64_t elements(const LanguageConfig& config) {
  nn::ModelLayout layout;
  const auto model = make_language_model(config);
  model->add_embedding(layout);
  model->add_decoder(layout);
  return layout.total_elements();
}

TEST(PublishedConfig, Llava157b) {
  json told = llama_of(4096, 32000, 1e-5);
  told.update({{"model_type", "llava"},
               {"architectures", {"LlavaLlamaForCausalLM"}},
               {"max_position_embeddings", 4096},
               {"num_key_value_heads", 32},
               {"rope_scaling", nullptr},
               {"mm_hidden_size", 1024},
               {"mm_projector_type", "mlp2x_gelu"},
               {"mm_vision_select_feature", "patch"},
               {"mm_vision_select_layer", -2},
               {"mm_vision_tower", "openai/clip-vit-large-patch14-336"}});
  const json clip{{"hidden_size", 1024},       {"intermediate_size", 4096}, {"num_hidden_layers", 24},
                  {"num_attention_heads", 16}, {"image_size", 336},         {"patch_size", 14},
                  {"hidden_act", "quick_gelu"}};
  for (const json& config : both(told, "llava_v1_5_7b/config.json")) {
    EXPECT_TRUE(is_llava_config(config));
    EXPECT_FALSE(is_transformers_llava(config));
    nn::ModelLayout layout;
    const LlavaModel model(layout, LlavaConfig::from_original(config, clip));
    EXPECT_EQ(layout.total_elements(), 6'738'415'616 + 303'507'456 + 20'979'712);
    EXPECT_EQ(model.config().tower.tokens(), 576);
  }
}

TEST(PublishedConfig, Mpt7bInstruct) {
  const json told{{"model_type", "mpt"},
                  {"architectures", {"MPTForCausalLM"}},
                  {"d_model", 4096},
                  {"n_heads", 32},
                  {"n_layers", 32},
                  {"expansion_ratio", 4},
                  {"max_seq_len", 2048},
                  {"no_bias", true},
                  {"norm_type", "low_precision_layernorm"},
                  {"vocab_size", 50432},
                  {"attn_config", {{"alibi", true}, {"alibi_bias_max", 8}, {"clip_qkv", nullptr}, {"qk_ln", false}}}};
  for (const json& config : both(told, "mpt_7b_instruct/config.json")) {
    EXPECT_EQ(elements(LanguageConfig::from_json(config)), 6'649'286'656);
  }
}

TEST(PublishedConfig, FastVitHdOfMobileclip) {
  const json told{{"embed_dim", 768},
                  {"image_cfg", {{"image_size", 1024}, {"model_name", "fastvithd"}, {"embed_dim", 3072}}}};
  for (const json& config : both(told, "mobileclip_l/mobileclip_l.json")) {
    ASSERT_TRUE(is_fastvit_config(config));
    const auto tower = FastVitConfig::from_json(config);
    EXPECT_EQ(tower.image_size, 1024);
    EXPECT_EQ(tower.width(), 3072);
    EXPECT_EQ(tower.tokens(), 256);
  }
}

// LLaMA with a vocabulary of its own: every weight of its index has a place here, and none is missing.
TEST(PublishedConfig, ChineseAlpaca7b) {
  for (const json& config : both(llama_of(4096, 49954, 1e-6), "llama_7b_chinese_alpaca/config.json")) {
    EXPECT_EQ(elements(LanguageConfig::from_json(config)), 6'885'494'784);
  }
  const fs::path index = kConfigs / "llama_7b_chinese_alpaca/pytorch_model.bin.index.json";
  if (!fs::exists(index)) return;
  nn::ModelLayout layout;
  const auto model = make_language_model(LanguageConfig::from_json(llama_of(4096, 49954, 1e-6)));
  model->add_embedding(layout);
  model->add_decoder(layout);
  std::set<std::string> ours, theirs;
  for (const auto& param : layout.params()) ours.insert(param->name);
  const json map = json::parse(read_file(index)).at("weight_map");
  for (const auto& [name, file] : map.items()) {
    if (const auto own = llava_layout_name(name, "model")) theirs.insert(*own);
  }
  EXPECT_EQ(ours, theirs);
}

}  // namespace
}  // namespace tessera::models
