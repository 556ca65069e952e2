#include "tessera/models/llava_folder.hpp"

#include <gtest/gtest.h>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

using testing_support::golden_model;

TEST(LlavaFolder, TellsItselfFromOtherModels) {
  for (const char* type : {"llava", "llava_llama", "llava_qwen2", "llava_mpt", "llava_next"}) {
    EXPECT_TRUE(is_llava_config({{"model_type", type}}));
  }
  EXPECT_FALSE(is_llava_config({{"model_type", "llama"}}));
  EXPECT_FALSE(is_llava_config({{"hidden_size", 3}}));
}

TEST(LlavaFolder, EveryPublicNamingBecomesTheLayouts) {
  const std::string tower = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias";
  const std::pair<const char*, std::string> names[] = {
      {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
      {"language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
      {"model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
      {"base_model.model.lm_head.weight", "lm_head.weight"},
      {"language_model.lm_head.weight", "lm_head.weight"},
      {"multi_modal_projector.linear_2.bias", "model.mm_projector.2.bias"},
      {"model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias", tower},
      {"vision_tower.vision_model.pre_layrnorm.bias", tower},
      {"model.vision_tower.vision_model.pre_layrnorm.bias", tower},
      {"vision_tower.pre_layrnorm.bias", tower},
      {"image_newline", "model.image_newline"},
      {"model.image_newline", "model.image_newline"},
  };
  for (const auto& [given, wanted] : names) EXPECT_EQ(llava_layout_name(given, "model"), wanted) << given;
  EXPECT_EQ(llava_layout_name("model.layers.0.self_attn.rotary_emb.inv_freq", "model"), std::nullopt);
}

TEST(LlavaFolder, InTransformersFormTilesAreLlavaNexts) {
  const auto read = [](const char* name, const nlohmann::json& settings) {
    LlavaFolderRequest request;
    request.folder = golden_model(name);
    request.settings = settings;
    return read_llava_folder(request);
  };
  const auto refusal = [&](const char* name, const nlohmann::json& settings) -> std::string {
    try {
      read(name, settings);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  };
  const auto own = read("llava_next_llama", {{"image_aspect_ratio", "anyres"}});
  EXPECT_EQ(own.llava.tiles->pinpoints, (image::GridPinpoints{{14, 28}, {42, 14}, {28, 42}}));
  EXPECT_TRUE(own.llava.image_newline);
  const auto given = read("llava_next_llama", {{"image_grid_pinpoints", "[(14, 28)]"}});
  EXPECT_EQ(given.llava.tiles->pinpoints, (image::GridPinpoints{{28, 14}})) << "a flag has the width first";
  EXPECT_EQ(given.config.at("image_grid_pinpoints"), (nlohmann::json{{28, 14}})) << "the file has the height first";
  EXPECT_NE(refusal("llava_next_llama", {{"image_aspect_ratio", "pad"}}).find("--image_aspect_ratio pad"),
            std::string::npos);
  EXPECT_NE(refusal("llava_next_llama", {{"mm_patch_merge_type", "flat"}}).find("--mm_patch_merge_type flat"),
            std::string::npos);
  EXPECT_FALSE(read("llava_hf_llama", {{"mm_patch_merge_type", "flat"}}).llava.tiles);
  for (const char* aspect : {"anyres", "anyres_max_9"}) {
    EXPECT_NE(refusal("llava_hf_llama", {{"image_aspect_ratio", aspect}}).find("llava_next alone"), std::string::npos);
  }
}

TEST(LlavaFolder, TransformersNamesComeBack) {
  for (const char* name : {"fastvlm_transformers", "fastvlm_transformers_three_stages"}) {
    const auto folder = read_llava_folder({golden_model(name), "", ""});
    std::size_t seen = 0;
    const auto files = open_llava_weights(folder);
    for (const auto& tensor : files->tensors()) {
      const auto own = llava_layout_name(tensor.name, folder.llava);
      if (!own) continue;
      ++seen;
      EXPECT_EQ(llava_hf_name(*own, folder.llava), tensor.name);
      EXPECT_EQ(llava_hf_module_name(*own, folder.llava), tensor.name);
    }
    EXPECT_GT(seen, 60U);
    const std::string tower = "model.vision_tower.vision_tower.model.";
    EXPECT_EQ(llava_hf_module_name(tower + "conv_exp.se.reduce", folder.llava),
              "model.vision_tower.timm_model.final_conv.se.fc1");
  }
  const auto clip = read_llava_folder({golden_model("llava_hf_llama"), "", ""});
  EXPECT_EQ(llava_hf_name("model.norm.weight", clip.llava), "language_model.model.norm.weight");
  EXPECT_EQ(llava_hf_module_name("model.norm.weight", clip.llava), "model.language_model.norm.weight");
}

// As releases of transformers save it: 5.0's FastVLM and llava_next heed the outer word, earlier ones the inner.
TEST(LlavaFolder, TheFileShowsTheHeadWhereTheConfigIsOfTwoMinds) {
  const testing_support::TempDir dir;
  for (const char* name : {"fastvlm_transformers", "fastvlm_transformers_three_stages"}) {
    auto config = nlohmann::json::parse(testing_support::read_file(golden_model(name) / "config.json"));
    const bool tied = config.at("tie_word_embeddings");
    std::filesystem::copy(golden_model(name), dir.path(),
                          std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
    for (const char* part : {"", "text_config"}) {
      auto turned = config;
      (*part == 0 ? turned : turned[part])["tie_word_embeddings"] = !tied;
      testing_support::write_file(dir / "config.json", turned.dump());
      EXPECT_EQ(read_llava_folder({dir.path(), "", ""}).llava.language.tied(), tied) << name << part;
    }
  }
}

TEST(LlavaFolder, InTransformersFormTheProcessorTellsTheSizeOfAFastVitsPictures) {
  const testing_support::TempDir dir;
  const auto golden = golden_model("fastvlm_transformers");
  std::filesystem::copy(golden, dir.path(), std::filesystem::copy_options::recursive);
  EXPECT_EQ(read_llava_folder({dir.path(), "", ""}).llava.tower.image_size(), 1024);
  testing_support::write_file(dir / "preprocessor_config.json", R"({"crop_size": {"height": 70, "width": 70}})");
  EXPECT_EQ(read_llava_folder({dir.path(), "", ""}).llava.tower.tokens(), 4);
}

TEST(LlavaFolder, RefusesWhatChangesThePicturesFeatures) {
  const testing_support::TempDir dir;
  std::filesystem::copy(golden_model("llava_original_llama"), dir.path(), std::filesystem::copy_options::recursive);
  const auto config = nlohmann::json::parse(testing_support::read_file(dir / "config.json"));
  const auto refusal = [&](const std::filesystem::path& file, nlohmann::json json, const char* key,
                           const nlohmann::json& value) -> std::string {
    json[key] = value;
    testing_support::write_file(file, json.dump());
    try {
      read_llava_folder({dir.path(), "", ""});
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  };
  const auto own = dir / "config.json";
  EXPECT_NE(refusal(own, config, "s2", true).find("'s2'"), std::string::npos);
  EXPECT_NE(refusal(own, config, "mm_resampler_type", "spatial_pool").find("'mm_resampler_type'"), std::string::npos);
  EXPECT_EQ(refusal(own, config, "mm_resampler_type", nullptr), "");
  const auto tower = dir / "clip/config.json";
  const auto clip = nlohmann::json::parse(testing_support::read_file(tower));
  EXPECT_NE(refusal(tower, clip, "model_type", "siglip_vision_model").find("siglip_vision_model"), std::string::npos);
}

TEST(LlavaFolder, OnMptThePartsHangFromTransformer) {
  const std::pair<const char*, const char*> names[] = {
      {"transformer.blocks.1.attn.Wqkv.weight", "transformer.blocks.1.attn.Wqkv.weight"},
      {"language_model.transformer.blocks.1.attn.Wqkv.weight", "transformer.blocks.1.attn.Wqkv.weight"},
      {"language_model.model.blocks.1.attn.Wqkv.weight", "transformer.blocks.1.attn.Wqkv.weight"},
      {"model.language_model.wte.weight", "transformer.wte.weight"},
      {"transformer.mm_projector.weight", "transformer.mm_projector.weight"},
      {"model.mm_projector.weight", "transformer.mm_projector.weight"},
      {"multi_modal_projector.linear_1.weight", "transformer.mm_projector.0.weight"},
      {"vision_tower.vision_model.pre_layrnorm.bias",
       "transformer.vision_tower.vision_tower.vision_model.pre_layrnorm.bias"},
      {"model.visual_model.mask_decoder.iou_token.weight", "transformer.visual_model.mask_decoder.iou_token.weight"},
  };
  for (const auto& [given, wanted] : names) EXPECT_EQ(llava_layout_name(given, "transformer"), wanted) << given;
}

TEST(LlavaFolder, AConfigSaysWhetherTheModelHasItsTower) {
  EXPECT_TRUE(has_tower_inside({{"unfreeze_mm_vision_tower", true}}));
  EXPECT_FALSE(has_tower_inside({{"unfreeze_mm_vision_tower", false}}));
  EXPECT_FALSE(has_tower_inside({{"unfreeze_mm_vision_tower", nullptr}}));
  EXPECT_FALSE(has_tower_inside(nlohmann::json::object()));
}

TEST(LlavaFolder, TheTowerComesFromItsOwnFolderOrFromTheModels) {
  const auto weights_of = [](const char* name) {
    return open_llava_weights(read_llava_folder({golden_model(name), "", ""}));
  };
  EXPECT_NE(weights_of("llava_original_llama")
                ->find("model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"),
            nullptr);
  EXPECT_NE(weights_of("llava_original_mpt")
                ->find("transformer.vision_tower.vision_tower.vision_model.embeddings.class_embedding"),
            nullptr);
}

TEST(LlavaFolder, TheTrainersLayerCountsWhereNeitherConfigNorSettingsSayOne) {
  const auto layer_of = [](const std::filesystem::path& folder, const nlohmann::json& settings) {
    const auto read = read_llava_folder({folder, "", "", settings, trainer_defaults()});
    EXPECT_EQ(read.config.at("mm_vision_select_layer"), read.llava.tower.select_layers.at(0));
    return read.llava.tower.select_layers.at(0);
  };
  const auto golden = golden_model("llava_original_llama_identity");  // its config.json says -3
  EXPECT_EQ(layer_of(golden, nlohmann::json::object()), -3);
  EXPECT_EQ(layer_of(golden, {{"mm_vision_select_layer", 1}}), 1);
  const testing_support::TempDir dir;
  std::filesystem::copy(golden, dir.path(), std::filesystem::copy_options::recursive);
  auto config = nlohmann::json::parse(testing_support::read_file(golden / "config.json"));
  config.erase("mm_vision_select_layer");
  testing_support::write_file(dir / "config.json", config.dump());
  EXPECT_EQ(layer_of(dir.path(), nlohmann::json::object()), -1);
  EXPECT_EQ(read_llava_folder({dir.path(), "", ""}).llava.tower.select_layers.at(0), -2);
}

TEST(LlavaFolder, NamesTheFlagThatWouldFindTheTower) {
  const testing_support::TempDir dir;
  testing_support::write_file(dir / "config.json", R"({"model_type": "llava", "mm_vision_tower": "no/such-tower"})");
  try {
    read_llava_folder({dir.path(), "", ""});
    ADD_FAILURE() << "accepted";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("--vision_tower"), std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::models
