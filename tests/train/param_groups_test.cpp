#include "tessera/train/param_groups.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;

// Two layers, a head and a frozen table; biases have no decay.
struct ParamGroupsTest : testing::Test {
  nn::ModelLayout layout;
  ParamGroups base;

  ParamGroupsTest() {
    const auto unit = layout.add_unit("all");
    for (const char* name : {"model.layers.0.q_proj.weight", "model.layers.0.q_proj.bias",
                             "model.layers.1.q_proj.weight", "lm_head.weight"}) {
      layout.add(unit, name, {2, 3}, nn::Init::zeros())->trainable = true;
    }
    layout.add(unit, "model.embed_tokens.weight", {2, 3}, nn::Init::zeros());
    base.groups = {{"all", 1e-3, 0.1}, {"all_no_decay", 1e-3, 0.0, false}};
    base.group_of = [](const nn::ParamState& p) { return p.name.ends_with("bias") ? 1U : 0U; };
  }
  ParamGroups with(const std::vector<std::string>& texts) const {
    std::vector<RatePattern> patterns;
    for (const auto& text : texts) patterns.push_back(rate_pattern(text));
    return divided(base, layout, patterns);
  }
  const shard::ParamGroup& of(const ParamGroups& groups, const char* name) const {
    return groups.groups.at(groups.group_of(*layout.find(name)));
  }
  std::string refusal(const std::string& text) const {
    return message_of<RequestError>([&] { with({text}); });
  }
};

TEST_F(ParamGroupsTest, WithoutPatternsTheRecipesGroupsStay) {
  const auto groups = with({});
  EXPECT_EQ(groups.groups.size(), 2U);
  EXPECT_EQ(of(groups, "lm_head.weight").lr, 1e-3);
}

TEST_F(ParamGroupsTest, APatternGivesARateAndADecay) {
  const auto groups = with({"lm_head=5e-4:0.02", "layers\\.1\\.=2e-3"});
  EXPECT_EQ(of(groups, "lm_head.weight").lr, 5e-4);
  EXPECT_EQ(of(groups, "lm_head.weight").weight_decay, 0.02);
  EXPECT_EQ(of(groups, "model.layers.1.q_proj.weight").lr, 2e-3);
  EXPECT_EQ(of(groups, "model.layers.1.q_proj.weight").weight_decay, 0.1);  // as the recipe has it
  EXPECT_EQ(of(groups, "model.layers.0.q_proj.weight").lr, 1e-3);
  EXPECT_EQ(groups.groups.size(), 4U);
}

TEST_F(ParamGroupsTest, OfSeveralPatternsTheFirstCountsAndAnEmptyGroupIsDropped) {
  const auto groups = with({"q_proj=1e-2", "layers=1e-4", "weight=3e-4"});
  EXPECT_EQ(of(groups, "model.layers.0.q_proj.weight").lr, 1e-2);
  EXPECT_EQ(of(groups, "lm_head.weight").lr, 3e-4);
  for (const auto& group : groups.groups) EXPECT_NE(group.name, "all");
}

TEST_F(ParamGroupsTest, WhatHasNoDecayStaysWithout) {
  const auto groups = with({"q_proj=1e-2:0.5"});
  EXPECT_EQ(of(groups, "model.layers.0.q_proj.bias").lr, 1e-2);
  EXPECT_EQ(of(groups, "model.layers.0.q_proj.bias").weight_decay, 0.0);
  EXPECT_EQ(of(groups, "model.layers.0.q_proj.weight").weight_decay, 0.5);
}

TEST_F(ParamGroupsTest, GroupsHaveNamesOfTheirOwn) {
  const auto groups = with({"q_proj=1e-2", "lm_head=1e-4"});
  std::set<std::string> names;
  for (const auto& group : groups.groups) names.insert(group.name);
  EXPECT_EQ(names.size(), groups.groups.size());
  EXPECT_TRUE(names.contains("all/q_proj"));
}

TEST_F(ParamGroupsTest, APatternOfNothingThatTrainsNamesWhatIsNear) {
  auto text = refusal("layers.0.q_prj=1e-3");
  EXPECT_NE(text.find("'q_proj'"), std::string::npos) << text;
  text = refusal("embed_tokens=1e-3");  // it is there, but frozen
  EXPECT_NE(text.find("embed_tokens"), std::string::npos) << text;
  EXPECT_NE(text.find("lm_head"), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST_F(ParamGroupsTest, MalformedPatternsAreRefused) {
  for (const char* text : {"lm_head", "=1e-3", "lm_head=fast", "lm_head=1e-3:", "lm_head=-1", "(=1e-3"}) {
    EXPECT_NE(refusal(text).find("--lr_groups"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace tessera::train
