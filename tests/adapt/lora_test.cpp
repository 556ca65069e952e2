#include "tessera/adapt/lora.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::adapt {
namespace {

using testing_support::distance;

struct TwoLayers {
  nn::ModelLayout layout;
  nn::UnitId unit = layout.add_unit("model.layers.0");
  nn::Scope scope{layout, unit, "model.layers.0"};
  nn::Linear q{scope.child("self_attn"), "q_proj", 7, 5, false};
  nn::Linear tower{nn::Scope(layout, unit, "model.vision_tower"), "q_proj", 7, 5, false};
};

LoraConfig rank_three() {
  LoraConfig config;
  config.rank = 3;
  config.alpha = 12;
  config.dropout = 0;
  config.targets = {"q_proj"};
  return config;
}

TEST(Lora, AddsTheScaledProductOnItsTargets) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, rank_three());
  nn::materialize(m.layout, 1);
  const at::Tensor b = at::randn({5, 3});
  lora.layers.at(0).b->bind(b);
  const at::Tensor x = at::randn({2, 4, 7});
  const at::Tensor plain = x.matmul(m.q.state().weight->value().t());
  const at::Tensor wanted = plain.add(x.matmul(lora.layers[0].a->value().t()).matmul(b.t()), 4.0);
  EXPECT_LT(distance(m.q(x, {}), wanted), 1e-5);
}

TEST(Lora, StartsWithoutEffect) {
  TwoLayers m;
  attach_lora(m.layout, rank_three());
  nn::materialize(m.layout, 1);
  const at::Tensor x = at::randn({2, 4, 7});
  EXPECT_LT(distance(m.q(x, {}), x.matmul(m.q.state().weight->value().t())), 1e-6);
}

TEST(Lora, LeavesLisasTowersAlone) {
  TwoLayers m;
  EXPECT_EQ(lora_targets(m.layout, rank_three()), std::vector<std::string>{"model.layers.0.self_attn.q_proj"});
}

TEST(Lora, LivesInOneFusedUnitAndMarksWhatItSitsOn) {
  TwoLayers m;
  const Lora lora = attach_lora(m.layout, rank_three());
  EXPECT_TRUE(m.layout.unit(lora.unit).fused);
  EXPECT_TRUE(m.layout.unit(m.unit).adapted);
  EXPECT_EQ(m.layout.trainable_elements(), 3 * 7 + 5 * 3);
}

TEST(Lora, ScalingIsAlphaOverRankOrItsRoot) {
  LoraConfig config = rank_three();
  EXPECT_DOUBLE_EQ(config.scaling(), 4.0);
  config.rslora = true;
  EXPECT_DOUBLE_EQ(config.scaling(), 12.0 / std::sqrt(3.0));
}

TEST(Lora, MergedRowsAreTheRowsOfTheMergedWeight) {
  const at::Tensor w = at::randn({6, 4}), a = at::randn({2, 4}), b = at::randn({6, 2});
  const at::Tensor whole = w.add(b.matmul(a), 0.5);
  EXPECT_LT(distance(merged_rows(w.narrow(0, 2, 3), a, b, 0.5, 2), whole.narrow(0, 2, 3)), 1e-5);
}

TEST(Lora, NamesGoToPeftAndBack) {
  const std::string ours = "model.layers.3.self_attn.q_proj.lora_A.default.weight";
  const std::string theirs = "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight";
  EXPECT_EQ(peft_file_name(ours), theirs);
  EXPECT_EQ(param_name_of_peft(theirs), ours);
  EXPECT_EQ(param_name_of_peft("base_model.model." + ours), ours);
  EXPECT_EQ(param_name_of_peft("base_model.model.lm_head.weight"), "");
}

TEST(Lora, ReadsPeftsConfigurationAndRefusesWhatItCannotDo) {
  const auto config = lora_config_from_json(parse_json(
      R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "modules_to_save": null})", "a.json"));
  EXPECT_EQ(config.rank, 4);
  EXPECT_DOUBLE_EQ(config.scaling(), 2.0);
  for (const char* text :
       {R"({"peft_type": "IA3", "r": 4, "lora_alpha": 8})", R"({"peft_type": "LORA", "lora_alpha": 8})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": true})",
        R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "all"})",
        R"({"peft_type": "LORA", "r": "4", "lora_alpha": 8})"}) {
    EXPECT_THROW(lora_config_from_json(parse_json(text, "a.json")), RequestError) << text;
  }
}

std::string error_of(const LoraConfig& config) {
  TwoLayers m;
  try {
    attach_lora(m.layout, config);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(Lora, NamesWhatIsWrongWithItsSettings) {
  LoraConfig config = rank_three();
  config.targets = {"q_prij"};
  EXPECT_NE(error_of(config).find("'q_proj'"), std::string::npos);
  config = rank_three();
  config.rank = 6;
  EXPECT_NE(error_of(config).find("rank 6"), std::string::npos);
  config.rank = 0;
  EXPECT_NE(error_of(config).find("rank 0"), std::string::npos);
  config = rank_three();
  config.dropout = 1.0;
  EXPECT_NE(error_of(config).find("dropout"), std::string::npos);
}

}  // namespace
}  // namespace tessera::adapt
