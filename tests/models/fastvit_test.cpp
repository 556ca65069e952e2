#include "tessera/models/fastvit.hpp"

#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/models/local_weights.hpp"

namespace tessera::models {
namespace {

using testing_support::close;
using testing_support::golden_model;

FastVitConfig small(bool branches) {
  FastVitConfig config = FastVitConfig::from_json(nlohmann::json::parse(
      R"({"layers": [1, 2, 1], "embed_dims": [3, 6, 18], "mlp_ratios": [2, 2, 1], "pos_embs": [null, null, true],
          "token_mixers": ["repmixer", "repmixer", "repmixer"], "image_size": 40})"));
  config.branches = branches;
  return config;
}

TEST(FastVit, HasThePublishedSizes) {
  nn::ModelLayout layout;
  const FastVit tower(layout, FastVitConfig::hd(), "model");
  EXPECT_EQ(layout.total_elements(), 125'073'504);
  EXPECT_EQ(tower.config().tokens(), 256);
  EXPECT_EQ(tower.config().width(), 3072);
  const auto elements = [&](const std::string& prefix) {
    std::int64_t sum = 0;
    for (const nn::Param& param : layout.params()) {
      if (param->name.starts_with(prefix) && !param->buffer) sum += param->numel();
    }
    return sum;
  };
  EXPECT_EQ(elements("model.patch_embed."), 12'960);
  EXPECT_EQ(elements("model.network.4."), 28'929'024);
  EXPECT_EQ(elements("model.network.8."), 2'437'632);
  EXPECT_EQ(elements("model.network.9."), 76'800);
  EXPECT_EQ(elements("model.conv_exp."), 1'213'632);
}

TEST(FastVit, TakesNoPictureAtAllAndPicturesOfAnySize) {
  for (const bool branches : {false, true}) {
    nn::ModelLayout layout;
    const FastVit tower(layout, small(branches), "model");
    nn::materialize(layout, 1);
    nn::LocalRunner runner;
    EXPECT_EQ(tower.tokens(tower.forward(at::zeros({0, 3, 40, 40}), runner, {})).sizes(), (at::IntArrayRef{0, 9, 36}));
    EXPECT_EQ(tower.forward(at::rand({1, 3, 17, 33}), runner, {}).sizes(), (at::IntArrayRef{1, 36, 2, 3}));
    EXPECT_THROW(tower.forward(at::rand({1, 4, 17, 33}), runner, {}), RequestError);
  }
}

// The branches of each golden, folded, are the weights that the public package made of them.
TEST(FastVit, FoldsItsBranchesAsThePublicPackagesDo) {
  for (const std::string name :
       {"fastvit_apple", "fastvit_timm", "fastvit_apple_two_heads", "fastvit_timm_two_heads"}) {
    const auto files = io::open_weights(golden_model(name + "_branches"));
    const auto wanted = io::open_weights(golden_model(name + "_folded"));
    const auto config_text = io::ModelFolder(golden_model(name + "_branches")).config().raw();
    FastVitConfig config = FastVitConfig::from_json(config_text);
    config.fit_to_weights(*files);
    ASSERT_TRUE(config.branches);
    nn::ModelLayout layout;
    const FastVit tower(layout, config, "model");
    const auto rename = [&](std::string_view given) { return fastvit_name(std::string(given), config); };
    load_local(layout, io::RenamedSource(files, rename));
    const io::RenamedSource folded(wanted, rename);
    int compared = 0;
    for (const FastVitFold& fold : tower.folds()) {
      const auto [kernel, bias] = fold.fold();
      EXPECT_TRUE(close(kernel, io::read_tensor(folded, fold.name + ".weight"))) << fold.name;
      EXPECT_TRUE(close(bias, io::read_tensor(folded, fold.name + ".bias"))) << fold.name;
      ++compared;
    }
    EXPECT_GE(compared, 12) << name;
  }
}

TEST(FastVit, TheFoldedFormHasNothingToFold) {
  nn::ModelLayout layout;
  EXPECT_TRUE(FastVit(layout, small(false), "model").folds().empty());
}

TEST(FastVitConfig, TheNameOfAMobileclipGivesTheSideOfItsPictures) {
  EXPECT_EQ(FastVitConfig::from_name("mobileclip_l_1024")->tokens(), 256);
  EXPECT_EQ(FastVitConfig::from_name("some/where/mobileclip_l_512")->image_size, 512);
  EXPECT_FALSE(FastVitConfig::from_name("openai/clip-vit-large-patch14").has_value());
  EXPECT_THROW(FastVitConfig::from_name("mobileclip_s2_256"), RequestError);
  EXPECT_THROW(FastVitConfig::from_name("mobileclip_l_"), RequestError);
  EXPECT_THROW(FastVitConfig::from_name("mobileclip_l_10x"), RequestError);
}

std::string error_of(const char* json) {
  try {
    FastVitConfig::from_json(nlohmann::json::parse(json));
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(FastVitConfig, NamesWhatItDoesNotSupport) {
  EXPECT_NE(error_of(R"({"architecture": "fastvit_t8"})").find("fastvit_t8"), std::string::npos);
  EXPECT_NE(error_of(R"({"architecture": "fastvit_mci3", "model_args": {"lkc_use_act": false}})").find("lkc_use_act"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"token_mixers": ["repmixer", "mamba", "repmixer", "repmixer", "repmixer"]})").find("mamba"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"layers": [1, 1], "embed_dims": [3]})").find("embed_dims"), std::string::npos);
  EXPECT_NE(error_of(R"({"layers": [1, 0], "embed_dims": [3, 3]})").find("layers"), std::string::npos);
  EXPECT_NE(error_of(R"({"layers": [1, 1], "embed_dims": [3, 4]})").find("multiple"), std::string::npos);
  EXPECT_NE(error_of(R"({"layers": [1], "embed_dims": [33], "token_mixers": ["attention"]})").find("multiple"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"image_cfg": {"model_name": "vit"}})").find("'vit'"), std::string::npos);
}

TEST(FastVitConfig, TellsItselfFromOtherConfigs) {
  EXPECT_TRUE(is_fastvit_config({{"image_cfg", {{"model_name", "fastvithd"}}}}));
  EXPECT_TRUE(is_fastvit_config({{"architecture", "fastvit_mci3"}}));
  EXPECT_TRUE(is_fastvit_config({{"model_type", "fastvithd"}}));
  EXPECT_FALSE(is_fastvit_config({{"model_type", "llava_qwen2"}, {"mm_vision_tower", "mobileclip_l_1024"}}));
  EXPECT_FALSE(is_fastvit_config({{"model_type", "clip_vision_model"}}));
}

TEST(FastVitNames, EveryPublicNamingBecomesApples) {
  const FastVitConfig config = FastVitConfig::hd();
  const std::pair<const char*, const char*> names[] = {
      {"model.patch_embed.0.reparam_conv.bias", "model.patch_embed.0.reparam_conv.bias"},
      {"stem.1.conv_kxk.0.conv.weight", "model.patch_embed.1.rbr_conv.0.conv.weight"},
      {"timm_model.stem.2.identity.running_var", "model.patch_embed.2.rbr_skip.running_var"},
      {"image_encoder.model.network.10.1.layer_scale_2", "model.network.10.1.layer_scale_2"},
      {"visual.trunk.stages.4.blocks.1.layer_scale_2.gamma", "model.network.10.1.layer_scale_2"},
      {"stages.0.blocks.1.token_mixer.mixer.conv_scale.bn.bias",
       "model.network.0.1.token_mixer.mixer.rbr_scale.bn.bias"},
      {"stages.2.blocks.23.mlp.conv.bn.weight", "model.network.4.23.convffn.conv.bn.weight"},
      {"stages.3.downsample.proj.0.reparam_conv.weight", "model.network.5.proj.0.lkb_reparam.weight"},
      {"stages.3.downsample.proj.0.large_conv.conv.weight", "model.network.5.proj.0.lkb_origin.conv.weight"},
      {"stages.3.downsample.proj.1.reparam_conv.weight", "model.network.5.proj.1.reparam_conv.weight"},
      {"stages.4.pos_emb.pos_enc.weight", "model.network.9.pe.weight"},
      {"stages.4.pos_emb.reparam_conv.weight", "model.network.9.reparam_conv.weight"},
      {"final_conv.se.fc1.bias", "model.conv_exp.se.reduce.bias"},
      {"model.head.proj", "model.head.proj"},
  };
  for (const auto& [given, wanted] : names) EXPECT_EQ(fastvit_name(given, config), wanted) << given;
  for (const char* name : {"stages.0.blocks.0.mlp.conv.bn.num_batches_tracked", "head.fc.weight", "logit_scale"}) {
    EXPECT_EQ(fastvit_name(name, config), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace tessera::models
