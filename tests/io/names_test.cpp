#include "tessera/io/names.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "tessera/core/json.hpp"

namespace tessera::io {
namespace {

using Names = std::set<std::string>;

/// Names that the public packages gave one tiny LLaVA (tests/golden/io/make_names.py).
Names names_of(const std::string& list) {
  static const JsonView golden = read_json(std::string(TESSERA_SOURCE_DIR) + "/tests/golden/io/data/names.json");
  const auto names = golden.at(list).texts();
  return {names.begin(), names.end()};
}

/// The list under our names; the matrices of adapters stand for the weights they adapt.
Names ours(const std::string& list) {
  Names out;
  for (const std::string& name : names_of(list)) {
    auto plain = unwrapped_name(name);
    if (!plain) continue;
    if (const auto at = plain->find(".lora_"); at != std::string::npos) plain->replace(at, plain->npos, ".weight");
    if (!is_recomputed_buffer(*plain)) out.insert(llava_name(*plain));
  }
  return out;
}

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

TEST(LlavaModuleName, IsTheNameInTransformersMemory) {
  for (const auto& row : kRows) EXPECT_EQ(llava_module_name(row.ours), row.modules);
  EXPECT_EQ(llava_module_name("model.layers.0.q_proj.lora_A.default.weight"),
            "model.language_model.layers.0.q_proj.lora_A.default.weight");
  EXPECT_FALSE(llava_module_name("model.mm_projector.weight").has_value());
}

TEST(UnwrappedName, TakesOffWhatTrainersPutAround) {
  EXPECT_EQ(unwrapped_name("module.base_model.model.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(unwrapped_name("base_model.model.model.layers.0.q_proj.base_layer.weight"), "model.layers.0.q_proj.weight");
  EXPECT_EQ(unwrapped_name("base_model.model.lm_head.modules_to_save.default.weight"), "lm_head.weight");
  EXPECT_FALSE(unwrapped_name("base_model.model.lm_head.original_module.weight").has_value());
  EXPECT_EQ(unwrapped_name("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(unwrapped_name(""), "");
}

TEST(PublicNames, OfEveryGenerationAreTheOriginals) {
  const Names original = names_of("original");
  ASSERT_EQ(original.size(), 65u);
  Names without_newline = original;
  without_newline.erase("model.image_newline");
  for (const char* list :
       {"original_file", "peft05_state", "next457_memory", "next457_file", "next5_memory", "next5_file"}) {
    EXPECT_EQ(ours(list), original) << list;
  }
  for (const char* list : {"hf437_memory", "hf437_file", "hf457_memory", "hf457_file", "hf5_memory", "hf5_file",
                           "peft018_hf457_state", "peft018_hf5_state"}) {
    EXPECT_EQ(ours(list), without_newline) << list;
  }
}

TEST(PublicNames, OfAdaptersAreLayersOfTheOriginal) {
  const Names original = names_of("original");
  for (const char* list : {"peft05_adapter", "peft018_hf457_adapter", "peft018_hf5_adapter"}) {
    const Names layers = ours(list);
    EXPECT_GE(layers.size(), 8u) << list;  // queries and values of two layers of the language model and of the tower
    EXPECT_TRUE(std::includes(original.begin(), original.end(), layers.begin(), layers.end())) << list;
  }
}

TEST(PublicNames, OfTransformersFilesAreWhatWeWrite) {
  Names written;
  for (const std::string& name : names_of("original")) written.insert(llava_hf_name(name).value_or("none of " + name));
  EXPECT_EQ(written, names_of("next457_file"));
}

TEST(PublicNames, OfWhatLlavaTrainsWholeAreTheOriginals) {
  const Names projector{"model.mm_projector.0.bias", "model.mm_projector.0.weight", "model.mm_projector.2.bias",
                        "model.mm_projector.2.weight"};
  Names with_head = projector;
  with_head.insert("lm_head.weight");
  EXPECT_EQ(ours("non_lora_trainables"), with_head);
  for (const char* list : {"mm_projector", "mm_projector_start_end", "non_lora_trainables"}) {
    Names found;
    for (const std::string& name : names_of(list)) {
      if (const auto own = projector_name(name)) found.insert(*own);
    }
    EXPECT_EQ(found, projector) << list;
  }
}

TEST(LlavaName, PutsBackWhatTransformers5LeavesOut) {
  const std::string tower = "model.vision_tower.vision_tower.";
  EXPECT_EQ(llava_name("vision_tower.encoder.layers.0.mlp.fc1.bias"),
            tower + "vision_model.encoder.layers.0.mlp.fc1.bias");
  EXPECT_EQ(llava_name("model.vision_tower.pre_layrnorm.weight"), tower + "vision_model.pre_layrnorm.weight");
  EXPECT_EQ(llava_name(tower + "model.stem.0.conv.weight"), tower + "model.stem.0.conv.weight");
}

TEST(IsRecomputedBuffer, KnowsTheTwoThatOldFilesHold) {
  EXPECT_TRUE(is_recomputed_buffer("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(is_recomputed_buffer("model.vision_tower.vision_tower.vision_model.embeddings.position_ids"));
  EXPECT_FALSE(is_recomputed_buffer("model.embed_tokens.weight"));
}

}  // namespace
}  // namespace tessera::io
