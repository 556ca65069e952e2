#include "tessera/io/names.hpp"

#include <gtest/gtest.h>

#include <array>

namespace tessera::io {
namespace {

struct Row {
  const char* ours;
  const char* file;     ///< transformers' files
  const char* modules;  ///< transformers' modules since 4.52
};

constexpr std::array kRows{
    Row{"model.layers.3.self_attn.q_proj.weight", "language_model.model.layers.3.self_attn.q_proj.weight",
        "model.language_model.layers.3.self_attn.q_proj.weight"},
    Row{"model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight"},
    Row{"model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"},
    Row{"lm_head.weight", "language_model.lm_head.weight", "lm_head.weight"},
    Row{"model.mm_projector.0.bias", "multi_modal_projector.linear_1.bias",
        "model.multi_modal_projector.linear_1.bias"},
    Row{"model.mm_projector.2.weight", "multi_modal_projector.linear_2.weight",
        "model.multi_modal_projector.linear_2.weight"},
    Row{"model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"},
    Row{"model.image_newline", "image_newline", "model.image_newline"},
};

TEST(LlavaName, TakesEveryNamingToOursAndLeavesOurs) {
  for (const auto& row : kRows) {
    EXPECT_EQ(llava_name(row.ours), row.ours);
    EXPECT_EQ(llava_name(row.file), row.ours);
    EXPECT_EQ(llava_name(row.modules), row.ours);
  }
  EXPECT_EQ(llava_name("model.visual_model.mask_decoder.iou_token.weight"),
            "model.visual_model.mask_decoder.iou_token.weight");
  EXPECT_EQ(llava_name("model.mm_projector.weight"), "model.mm_projector.weight");
}

TEST(LlavaHfName, IsTheNameInTransformersFiles) {
  for (const auto& row : kRows) EXPECT_EQ(llava_hf_name(row.ours), row.file);
  EXPECT_FALSE(llava_hf_name("model.visual_model.mask_decoder.iou_token.weight").has_value());
  EXPECT_FALSE(llava_hf_name("model.mm_projector.weight").has_value()) << "transformers' projector has two layers";
}

TEST(UnwrappedName, TakesOffWhatTrainersPutAround) {
  EXPECT_EQ(unwrapped_name("module.base_model.model.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(unwrapped_name("base_model.model.model.layers.0.q_proj.base_layer.weight"), "model.layers.0.q_proj.weight");
  EXPECT_EQ(unwrapped_name("base_model.model.lm_head.modules_to_save.default.weight"), "lm_head.weight");
  EXPECT_FALSE(unwrapped_name("base_model.model.lm_head.original_module.weight").has_value());
  EXPECT_EQ(unwrapped_name("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(unwrapped_name(""), "");
}

TEST(IsRecomputedBuffer, KnowsTheTwoThatOldFilesHold) {
  EXPECT_TRUE(is_recomputed_buffer("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(is_recomputed_buffer("model.vision_tower.vision_tower.vision_model.embeddings.position_ids"));
  EXPECT_FALSE(is_recomputed_buffer("model.embed_tokens.weight"));
}

}  // namespace
}  // namespace tessera::io
