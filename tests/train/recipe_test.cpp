// What each of LLaVA's stages trains, and at which rate; that the steps are right, llava_stages_test.py shows.
#include "tessera/train/recipe.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/safetensors.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

constexpr const char* kModel = R"({"model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5})";
constexpr const char* kClip = R"({"model_type": "clip_vision_model", "hidden_size": 6, "intermediate_size": 8,
  "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 4, "patch_size": 2, "projection_dim": 4})";

struct LlavaRecipeTest : testing::Test {
  TempDir dir;
  TrainConfig config;
  nn::ModelLayout layout;
  std::unique_ptr<Recipe> recipe;

  LlavaRecipeTest() {
    std::filesystem::create_directories(dir / "clip");
    write_file(dir / "config.json", kModel);
    write_file(dir / "clip/config.json", kClip);
    std::filesystem::copy_file(std::filesystem::path(TESSERA_SOURCE_DIR) / "launch/toy/lisa/tokenizer.model",
                               dir / "tokenizer.model");
    io::SafetensorsWriter(dir / "model.safetensors", {}).commit();
    set_recipe_defaults(config, "llava");
    config.version = dir.path().string();
    config.vision_tower = (dir / "clip").string();
  }
  // Names of what trains, the language model's layer for all of it.
  std::set<std::string> trained() {
    recipe = make_recipe(config);
    recipe->build(layout);
    if (const auto lora = recipe->adapters(layout)) adapt::attach_lora(layout, *lora);
    recipe->mark_trained(layout);
    std::set<std::string> out;
    for (const auto& p : layout.params()) {
      if (!p->trainable) continue;
      const bool layer = p->name.starts_with("model.layers.");
      const bool adapter = p->name.find(".lora_") != std::string::npos;
      out.insert(adapter ? "adapters" : layer ? "layers" : p->name.substr(0, p->name.find('.', 6)));
    }
    return out;
  }
};

TEST_F(LlavaRecipeTest, StageOneTrainsTheProjectorAlone) {
  config.tune_mm_mlp_adapter = true;
  EXPECT_EQ(trained(), (std::set<std::string>{"model.mm_projector"}));
}

TEST_F(LlavaRecipeTest, StageTwoTrainsAllButTheTower) {
  EXPECT_EQ(trained(),
            (std::set<std::string>{"model.embed_tokens", "layers", "model.norm", "model.mm_projector", "lm_head"}));
}

TEST_F(LlavaRecipeTest, AFrozenBackboneLeavesTheHead) {
  config.freeze_backbone = true;
  EXPECT_EQ(trained(), (std::set<std::string>{"model.mm_projector", "lm_head"}));
}

TEST_F(LlavaRecipeTest, LoraGoesOnEveryLinearLayerButTheHead) {
  config.lora_enable = true;
  config.lora_r = 2;
  EXPECT_EQ(trained(), (std::set<std::string>{"model.mm_projector", "adapters"}));
  EXPECT_NE(layout.find("model.layers.0.mlp.down_proj.lora_A.default.weight"), nullptr);
  EXPECT_EQ(layout.find("lm_head.lora_A.default.weight"), nullptr);
}

TEST_F(LlavaRecipeTest, GroupsHaveTheirRatesAndNormsNoDecay) {
  config.mm_projector_lr = 1e-3;
  config.weight_decay = 0.1;
  trained();
  const auto groups = recipe->param_groups(layout);
  auto of = [&](const char* name) { return groups.groups.at(groups.group_of(*layout.find(name))); };
  EXPECT_EQ(of("model.mm_projector.weight").lr, 1e-3);
  EXPECT_EQ(of("model.mm_projector.weight").weight_decay, 0.1);
  EXPECT_EQ(of("model.mm_projector.bias").weight_decay, 0.0);
  EXPECT_EQ(of("lm_head.weight").lr, config.lr);
  EXPECT_EQ(of("model.layers.0.input_layernorm.weight").weight_decay, 0.0);
  EXPECT_EQ(groups.groups.size(), 4U);  // none of the tower
}

TEST_F(LlavaRecipeTest, AFolderThatIsNotThereIsRefused) {
  config.version = (dir / "nowhere").string();
  EXPECT_NE(message_of<RequestError>([&] { make_recipe(config); }).find("nowhere"), std::string::npos);
}

}  // namespace
}  // namespace tessera::train
