#include "tessera/adapt/targets.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::adapt {
namespace {

using testing_support::message_of;
using Names = std::vector<std::string>;

/// The names of a LISA's linear layers, few of each.
struct Model {
  nn::ModelLayout layout;
  std::vector<nn::Linear> layers;
  Model() {
    for (const char* name :
         {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj",
          "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj",
          "model.mm_projector.0", "model.vision_tower.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj",
          "model.visual_model.image_encoder.blocks.1.attn.qkv", "lm_head"}) {
      const std::string full = name;
      layers.emplace_back(nn::Scope(layout, layout.add_unit(full), ""), full, 4, 4, false);
    }
    layout.add(layout.add_unit("model.norm"), "model.norm.weight", {4}, {});
  }
  Names find(const Targets& rules) const {
    Names out;
    for (const auto& linear : find_targets(layout, rules)) out.push_back(linear->name);
    return out;
  }
  std::string error(const Targets& rules) const {
    return message_of<RequestError>([&] { find_targets(layout, rules); });
  }
};

/// PEFT's rules, which exclude nothing by themselves.
Targets peft(Names targets, TargetMatch match = TargetMatch::suffix) {
  Targets rules;
  rules.targets = std::move(targets);
  rules.match = match;
  rules.exclude.clear();
  return rules;
}

const std::string kClipQ = "model.vision_tower.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj";

TEST(Targets, SubstringsLeaveLisasTowersAlone) {
  Targets rules;
  rules.targets = {"self_attn.q"};
  EXPECT_EQ(Model().find(rules), (Names{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}));
}

TEST(Targets, AListMatchesWholeEndsInEveryPartOfTheModel) {
  EXPECT_EQ(Model().find(peft({"q_proj", "qkv", "lm_head"})),
            (Names{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", kClipQ,
                   "model.visual_model.image_encoder.blocks.1.attn.qkv", "lm_head"}));
  EXPECT_NE(Model().error(peft({"proj"})), "");  // no component of its own
}

TEST(Targets, AnExpressionMatchesTheWholeName) {
  EXPECT_EQ(Model().find(peft({R"(model\.layers\.\d+\.(self_attn\.k|mlp\.down)_proj)"}, TargetMatch::regex)),
            (Names{"model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.k_proj",
                   "model.layers.1.mlp.down_proj"}));
  EXPECT_NE(Model().error(peft({"self_attn.k_proj"}, TargetMatch::regex)), "");
}

TEST(Targets, AllLinearIsAllButTheHead) {
  const Names found = Model().find(peft({}, TargetMatch::all_linear));
  EXPECT_EQ(found.size(), 9U);
  EXPECT_EQ(std::count(found.begin(), found.end(), "lm_head"), 0);
}

TEST(Targets, ExclusionsGoByEndOrExpression) {
  Targets rules = peft({"q_proj"});
  rules.exclude_modules = {"layers.1.self_attn.q_proj"};
  EXPECT_EQ(Model().find(rules), Names{"model.layers.0.self_attn.q_proj"});
  rules.exclude_modules = {".*vision_tower.*"};
  rules.exclude_match = TargetMatch::regex;
  EXPECT_EQ(Model().find(rules), (Names{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}));
}

TEST(Targets, LayersGoByTheirIndex) {
  Targets rules = peft({"q_proj", "qkv"});
  rules.layers_to_transform = {1};
  EXPECT_EQ(Model().find(rules),
            (Names{"model.layers.1.self_attn.q_proj", kClipQ, "model.visual_model.image_encoder.blocks.1.attn.qkv"}));
  rules.layers_pattern = {"blocks"};
  EXPECT_EQ(Model().find(rules), Names{"model.visual_model.image_encoder.blocks.1.attn.qkv"});
  rules.layers_to_transform = {1, 7};
  EXPECT_NE(Model().error(rules).find("index 7"), std::string::npos);
}

TEST(Targets, AListsFullNamesHaveNoIndex) {
  Targets rules = peft({"q_proj", "lm_head"});
  rules.layers_to_transform = {0};
  EXPECT_EQ(Model().find(rules), (Names{"model.layers.0.self_attn.q_proj", "lm_head"}));
}

TEST(Targets, ModulesTrainedWholeGetNoAdapter) {
  Targets rules = peft({"q_proj", "lm_head"});
  rules.modules_to_save = {"lm_head", "vision_tower"};
  EXPECT_EQ(Model().find(rules), (Names{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}));
}

TEST(Targets, ErrorsNameTheNearest) {
  const Model m;
  EXPECT_NE(m.error(peft({"q_prij"})).find("'q_prij'; did you mean 'q_proj'?"), std::string::npos);
  EXPECT_NE(m.error(peft({"attention_of_old"})).find("there are 0, down_proj, k_proj, lm_head, q_proj, qkv"),
            std::string::npos);
  EXPECT_NE(m.error(peft({"model.layers.5.mlp.down_proj"}, TargetMatch::regex)).find("model.layers.0.mlp.down_proj"),
            std::string::npos);
  EXPECT_NE(m.error(peft({"q_proj("}, TargetMatch::regex)).find("'q_proj('"), std::string::npos);
  EXPECT_NE(m.error(peft({})).find("no target"), std::string::npos);
  Targets rules = peft({"q_proj"});
  rules.exclude_modules = {"k_prij"};
  EXPECT_NE(m.error(rules).find("exclude_modules 'k_prij'; did you mean 'k_proj'?"), std::string::npos);
  rules.exclude_modules = {"q_proj"};
  EXPECT_NE(m.error(rules).find("excluded"), std::string::npos);
}

TEST(Targets, RulesThatPeftDoesNotCombineAreRefused) {
  Targets rules = peft({".*q_proj"}, TargetMatch::regex);
  rules.layers_to_transform = {0};
  EXPECT_NE(Model().error(rules).find("layers_to_transform"), std::string::npos);
  rules = peft({"q_proj"});
  rules.layers_pattern = {"layers"};
  EXPECT_NE(Model().error(rules).find("layers_pattern"), std::string::npos);
}

TEST(Targets, PatternKeysMatchANameOrItsEndFromADot) {
  const std::string name = "model.layers.12.self_attn.q_proj";
  for (const char* key :
       {"q_proj", "self_attn.q_proj", R"(layers\.\d+\.self_attn\.q_proj)", "^model.layers.12.*", ".*"}) {
    EXPECT_TRUE(pattern_matches(key, name)) << key;
  }
  for (const char* key : {"_proj", "self_attn", "^layers.12.self_attn.q_proj", "k_proj"}) {
    EXPECT_FALSE(pattern_matches(key, name)) << key;
  }
  EXPECT_THROW(pattern_matches("(", name), RequestError);
}

TEST(Targets, SavedModulesAreAllWeightsInside) {
  const Model m;
  Names found;
  for (const auto& param : saved_modules(m.layout, {"norm", "layers.1.self_attn"})) found.push_back(param->name);
  EXPECT_EQ(found, (Names{"model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
                          kClipQ + ".weight", "model.norm.weight"}));
  EXPECT_NE(message_of<RequestError>([&] { saved_modules(m.layout, {"lm_haed"}); }).find("'lm_head'"),
            std::string::npos);
}

}  // namespace
}  // namespace tessera::adapt
