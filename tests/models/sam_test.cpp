#include "tessera/models/sam.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "models/sam_names.hpp"
#include "nn/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera::models {
namespace {

SamConfig small() {
  return SamConfig::from_json(nlohmann::json::parse(R"({"image_size": 40, "patch_size": 8, "embed_dim": 12, "depth": 2,
    "num_heads": 2, "mlp_ratio": 2.0, "global_attn_indexes": [1], "window_size": 3, "prompt_embed_dim": 16,
    "mask_in_chans": 8, "decoder_depth": 1, "decoder_mlp_dim": 10, "decoder_num_heads": 2, "num_multimask_outputs": 3,
    "iou_head_depth": 2, "iou_head_hidden_dim": 8})"));
}

TEST(SamImageEncoder, GivesAGridWhateverItsWindowsPadding) {
  nn::ModelLayout layout;
  const SamImageEncoder encoder(layout, small(), "image_encoder");
  nn::materialize(layout, 1);
  nn::LocalRunner runner;
  nn::Tensors blocks;
  EXPECT_EQ(encoder.forward(at::randn({2, 3, 40, 40}), runner, {}, &blocks).sizes(), (at::IntArrayRef{2, 16, 5, 5}));
  EXPECT_EQ(blocks.size(), 2U);
  EXPECT_EQ(encoder.forward(at::randn({0, 3, 40, 40}), runner, {}).sizes(), (at::IntArrayRef{0, 16, 5, 5}));
  EXPECT_THROW(encoder.forward(at::randn({1, 3, 40, 32}), runner, {}), RequestError);
}

TEST(SamMaskDecoder, AcceptsNoPromptsAtAll) {
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("decoder");
  const SamPromptEncoder prompts(nn::Scope(layout, unit, "prompt_encoder"), small());
  const SamMaskDecoder decoder(nn::Scope(layout, unit, "mask_decoder"), small());
  nn::materialize(layout, 1);
  SamPrompts none;
  none.text = at::zeros({0, 16});
  const SamMasks masks = decoder(at::zeros({0, 16, 5, 5}), prompts.image_pe(), prompts(none), false, {});
  EXPECT_EQ(masks.low_res.sizes(), (at::IntArrayRef{0, 1, 20, 20}));
  EXPECT_EQ(masks.iou.sizes(), (at::IntArrayRef{0, 1}));
}

TEST(SamMaskDecoder, OnePromptDoesNotChangeAnother) {
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("decoder");
  const SamPromptEncoder prompts(nn::Scope(layout, unit, "prompt_encoder"), small());
  const SamMaskDecoder decoder(nn::Scope(layout, unit, "mask_decoder"), small());
  nn::materialize(layout, 1);
  const at::Tensor image = at::randn({1, 16, 5, 5});
  SamPrompts both, one;
  both.text = at::randn({2, 16});
  one.text = both.text.narrow(0, 1, 1);
  const at::Tensor a = decoder(image.expand({2, 16, 5, 5}), prompts.image_pe(), prompts(both), true, {}).low_res;
  const at::Tensor b = decoder(image, prompts.image_pe(), prompts(one), true, {}).low_res;
  EXPECT_EQ(a.size(1), 3);
  EXPECT_LT(testing_support::distance(a.narrow(0, 1, 1), b), 1e-5);
}

TEST(PostprocessMasks, CutsThePaddingBeforeItScales) {
  // Left half of the picture 1, right half (padding) -1: after the cut only the left half is there.
  at::Tensor low = at::full({1, 1, 20, 20}, -1.0);
  low.narrow(3, 0, 10).fill_(1.0);
  const at::Tensor mask = postprocess_masks(low, 40, {40, 15}, {11, 7});
  EXPECT_EQ(mask.sizes(), (at::IntArrayRef{1, 1, 11, 7}));
  EXPECT_LT(mask.sub(1.0).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(postprocess_masks(at::zeros({0, 3, 20, 20}), 40, {40, 15}, {11, 7}).sizes(),
            (at::IntArrayRef{0, 3, 11, 7}));
}

TEST(MaskLosses, AreThoseOfTheReferenceOnAConstantMask) {
  const at::Tensor pred = at::zeros({2, 3, 5});
  at::Tensor target = at::zeros({2, 3, 5});
  target[0].fill_(1.0);
  EXPECT_NEAR(mask_bce_sum(pred, target).item<double>(), 2 * std::log(2.0), 1e-5);
  // sigmoid 0.5 on 15 pixels that are all set: overlap 7.5, sums 7.5 and 15, in thousandths.
  const double wanted = 1 - (2 * 0.0075 + 1e-6) / (0.0075 + 0.015 + 1e-6);
  EXPECT_NEAR(mask_dice_sum(pred.narrow(0, 0, 1), target.narrow(0, 0, 1)).item<double>(), wanted, 1e-5);
  EXPECT_EQ(mask_bce_sum(pred.narrow(0, 0, 0), target.narrow(0, 0, 0)).item<double>(), 0.0);
  EXPECT_EQ(mask_dice_sum(pred.narrow(0, 0, 0), target.narrow(0, 0, 0)).item<double>(), 0.0);
}

TEST(SamConfig, ThePublishedSizesHaveThePackagesCounts) {
  const auto all = nlohmann::json::parse(read_file(testing_support::golden_model("sam_published_sizes.json")));
  ASSERT_EQ(all.size(), 3U);
  for (const auto& [variant, counts] : all.items()) {
    const SamConfig config = SamConfig::from_json({{"variant", variant}});
    const auto number = [&, &sizes = counts](const char* key) { return sizes.at(key).get<std::int64_t>(); };
    nn::ModelLayout encoder, prompts, decoder;
    const SamImageEncoder a(encoder, config, "image_encoder");
    const SamPromptEncoder b(nn::Scope(prompts, prompts.add_unit("p"), "prompt_encoder"), config);
    const SamMaskDecoder c(nn::Scope(decoder, decoder.add_unit("d"), "mask_decoder"), config);
    EXPECT_EQ(encoder.total_elements(), number("image_encoder")) << variant;
    EXPECT_EQ(prompts.total_elements(), number("prompt_encoder")) << variant;
    EXPECT_EQ(decoder.total_elements(), number("mask_decoder")) << variant;
    // The Gaussian matrix is a buffer, which the package does not count.
    const std::size_t tensors = encoder.params().size() + prompts.params().size() + decoder.params().size() - 1;
    EXPECT_EQ(static_cast<std::int64_t>(tensors), number("tensors")) << variant;
  }
}

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

/// All tensors of a published SAM as a package lists them (tests/golden/models/sam_name_lists.py).
Shapes published(const nlohmann::json& package, const std::string& variant) {
  Shapes all = package.at("shared").get<Shapes>();
  all.merge(package.at(variant).at("own").get<Shapes>());
  for (const auto& kind : package.at(variant).at("blocks")) {
    for (const auto& at : kind.at("at")) {
      for (const auto& [key, shape] : kind.at("tensors").get<Shapes>()) {
        std::string name = key;
        all.emplace(name.replace(name.find('#'), 1, at.dump()), shape);
      }
    }
  }
  return all;
}

TEST(SamNames, OfThePublishedSizesAreThePackages) {
  const auto lists = nlohmann::json::parse(read_file(testing_support::golden_model("sam_names.json")));
  for (const auto& [variant, count] : {std::pair("vit_b", 314U), std::pair("vit_l", 482U), std::pair("vit_h", 594U)}) {
    const SamConfig config = SamConfig::from_json({{"variant", variant}});
    nn::ModelLayout layout;
    const SamImageEncoder encoder(layout, config, "image_encoder");
    const SamPromptEncoder prompts(nn::Scope(layout, layout.add_unit("p"), "prompt_encoder"), config);
    const SamMaskDecoder decoder(nn::Scope(layout, layout.add_unit("d"), "mask_decoder"), config);
    Shapes ours, renamed;
    for (const nn::Param& param : layout.params()) ours.emplace(param->name, param->shape);
    for (const auto& [name, shape] : published(lists.at("transformers"), variant)) {
      const auto own = facebook_sam_name(name, config.iou_head_depth);
      ASSERT_TRUE(own) << name;
      EXPECT_TRUE(renamed.emplace(*own, shape).second) << name << " and another stand for " << *own;
    }
    EXPECT_EQ(ours.size(), count) << variant;
    EXPECT_EQ(ours, published(lists.at("facebook"), variant)) << variant;
    EXPECT_EQ(renamed, ours) << variant;
  }
  EXPECT_EQ(facebook_sam_name("prompt_encoder.shared_embedding.positional_embedding", 3), std::nullopt);
}

TEST(SamConfig, RefusesWhatItsArithmeticDoesNotCover) {
  for (const char* text :
       {R"({"vision_config": {"hidden_act": "relu"}})", R"({"mask_decoder_config": {"attention_downsample_rate": 4}})",
        R"({"prompt_encoder_config": {"hidden_size": 128}})", R"({"vision_config": {"layer_norm_eps": 1e-5}})"}) {
    EXPECT_THROW(SamConfig::from_transformers(nlohmann::json::parse(text)), RequestError) << text;
  }
  EXPECT_EQ(SamConfig::from_transformers(nlohmann::json::object()).embed_dim, 768);
  EXPECT_THROW(SamConfig::from_json({{"variant", "vit_s"}}), RequestError);
}

TEST(SamPromptEncoder, APaddingPointIsAZeroVector) {
  nn::ModelLayout layout;
  const SamPromptEncoder prompts(nn::Scope(layout, layout.add_unit("p"), "prompt_encoder"), small());
  nn::materialize(layout, 1);
  SamPrompts given;
  given.points = at::full({1, 2, 2}, 7.0);
  given.labels = at::full({1, 2}, -10, at::kLong);
  const at::Tensor sparse = prompts(given).sparse;
  EXPECT_EQ(sparse.narrow(1, 0, 2).abs().max().item<double>(), 0.0);
  EXPECT_GT(sparse.narrow(1, 2, 1).abs().max().item<double>(), 0.0);  // the point that stands for no box
}

TEST(SamConfig, NamesAKeyThatIsWrong) {
  for (const char* text : {R"({"image_size": "big"})", R"({"depth": 0})", R"({"embed_dim": 10, "num_heads": 3})"}) {
    EXPECT_THROW(SamConfig::from_json(nlohmann::json::parse(text)), RequestError) << text;
  }
  EXPECT_EQ(SamConfig::from_json(nlohmann::json::object()).embed_dim, 1280);
}

}  // namespace
}  // namespace tessera::models
