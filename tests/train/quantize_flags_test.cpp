#include "tessera/train/quantize_flags.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/layers.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;

QuantizeFlags parse(const std::vector<std::string>& args) {
  QuantizeFlags flags;
  Options options("tessera train", "");
  bind(options, flags, "Engine");
  bind_references(options, flags, "Engine");
  options.parse(args);
  return flags;
}

/// Linear layers of every part of a LISA.
struct Lisa {
  nn::ModelLayout layout;
  explicit Lisa(std::vector<std::string> names = {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj",
                                                  "lm_head", "model.mm_projector", "model.text_hidden_fcs.0.0",
                                                  "model.vision_tower.vision_tower.q_proj",
                                                  "model.visual_model.image_encoder.qkv"}) {
    const auto unit = layout.add_unit("all");
    for (const auto& name : names) nn::Linear(nn::Scope(layout, unit, ""), name, 8, 8, false);
  }
  std::set<std::string> chosen(const std::vector<std::string>& args) const {
    const auto q = quantization(parse(args), layout, nullptr);
    return q.weights ? *q.weights : std::set<std::string>{};
  }
};

/// A file of quantised weights, by name alone.
class PackedNames final : public io::TensorSource {
 public:
  PackedNames(const nn::ModelLayout& layout, QuantKind kind, bool twice) {
    for (const auto& param : layout.params()) infos_.push_back({param->name, io::Elem::f32, param->shape});
    std::sort(infos_.begin(), infos_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    parts_.kind = kind;
    if (twice) parts_.absmax2 = infos_.data();
  }
  void set_threshold(double value) { parts_.threshold = value; }
  const std::vector<io::TensorInfo>& tensors() const override { return infos_; }
  void read(const io::TensorInfo&, std::int64_t, std::int64_t, void*) const override {}
  std::string where(const io::TensorInfo&) const override { return "file"; }
  const io::PackedTensor* packed(const io::TensorInfo& info) const override {
    return info.name.find("q_proj") == std::string::npos ? nullptr : &parts_;
  }

 private:
  std::vector<io::TensorInfo> infos_;
  io::PackedTensor parts_;
};

TEST(QuantizeFlags, ChooseTheFrozenLinearLayersOfTheLanguageModel) {
  const Lisa lisa;
  EXPECT_EQ(lisa.chosen({"--quantize", "nf4"}),
            (std::set<std::string>{"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"}));
  lisa.layout.find("model.layers.0.mlp.down_proj.weight")->trainable = true;
  EXPECT_EQ(lisa.chosen({"--quantize", "int8"}), (std::set<std::string>{"model.layers.0.self_attn.q_proj.weight"}));
  EXPECT_TRUE(lisa.chosen({}).empty());
}

TEST(QuantizeFlags, ChooseAllLayersOfATowerAlone) {
  const Lisa tower({"vision_tower.layers.0.q_proj", "vision_tower.layers.0.k_proj"});
  EXPECT_EQ(tower.chosen({"--quantize", "fp4"}).size(), 2U);
}

TEST(QuantizeFlags, TheReferencesNamesMeanTheSame) {
  const auto check = [](const std::vector<std::string>& args, QuantKind kind, bool twice) {
    const auto flags = parse(args);
    EXPECT_EQ(flags.kind(), kind) << args.front();
    EXPECT_EQ(flags.double_quantised(), twice) << args.front();
  };
  check({"--quantize", "nf4"}, QuantKind::nf4, false);
  check({"--quantize", "nf4", "--double_quant", "true"}, QuantKind::nf4, true);
  check({"--load_in_4bit"}, QuantKind::nf4, true);
  check({"--load_in_8bit"}, QuantKind::int8, false);
  check({"--bits", "4"}, QuantKind::nf4, true);
  check({"--bits", "4", "--quant_type", "fp4", "--double_quant", "False"}, QuantKind::fp4, false);
  check({"--bits", "8"}, QuantKind::int8, false);
  check({"--bits", "16"}, QuantKind::none, false);
  check({"--bits", "4", "--quantize", "nf4"}, QuantKind::nf4, true);
}

TEST(QuantizeFlags, ModulesToSkipAreNamedByTheirComponents) {
  const Lisa lisa;
  const std::set<std::string> attention{"model.layers.0.self_attn.q_proj.weight"};
  EXPECT_EQ(lisa.chosen({"--quantize", "nf4", "--llm_int8_skip_modules", "mlp"}), attention);
  EXPECT_EQ(lisa.chosen({"--quantize", "int8", "--llm_int8_skip_modules", "mm_projector", "mlp.down_proj"}), attention);
  EXPECT_EQ(lisa.chosen({"--quantize", "int8", "--llm_int8_skip_modules", "mm_projector"}).size(), 2U);
  const auto text = message_of<RequestError>([&] {
    lisa.chosen({"--quantize", "nf4", "--llm_int8_skip_modules", "down"});
  });
  EXPECT_NE(text.find("--llm_int8_skip_modules 'down' is no module"), std::string::npos) << text;
}

TEST(QuantizeFlags, TheThresholdIsTheFlagsThenTheFilesThenSix) {
  const Lisa lisa;
  const auto threshold = [&](const std::vector<std::string>& args, const io::TensorSource* files) {
    return quantization(parse(args), lisa.layout, files).threshold;
  };
  PackedNames files(lisa.layout, QuantKind::int8, false);
  EXPECT_EQ(threshold({"--quantize", "int8"}, nullptr), 6.0);
  EXPECT_EQ(threshold({"--quantize", "int8", "--llm_int8_threshold", "0"}, nullptr), 0.0);
  EXPECT_EQ(threshold({}, &files), 6.0);
  files.set_threshold(2.5);
  EXPECT_EQ(threshold({}, &files), 2.5);
  EXPECT_EQ(threshold({"--llm_int8_threshold", "4"}, &files), 4.0);
}

TEST(QuantizeFlags, ContradictionsAreNamed) {
  const auto expect = [](const std::vector<std::string>& args, const std::string& words) {
    const auto text = message_of<RequestError>([&] { Lisa().chosen(args); });
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  expect({"--load_in_4bit", "--load_in_8bit"}, "--load_in_8bit");
  expect({"--quantize", "fp4", "--bits", "4"}, "--bits");
  expect({"--bits", "5"}, "--bits 5");
  expect({"--quantize", "int8", "--double_quant", "true"}, "--double_quant");
  expect({"--double_quant", "true"}, "--quantize");
  expect({"--quantize", "nf5"}, "nf5");
  expect({"--llm_int8_threshold", "6"}, "needs weights in int8");
  expect({"--load_in_4bit", "--llm_int8_threshold", "6"}, "needs weights in int8");
  expect({"--bits", "8", "--llm_int8_threshold", "-2"}, "--llm_int8_threshold -2");
  expect({"--llm_int8_skip_modules", "mlp"}, "--llm_int8_skip_modules needs --quantize");
}

TEST(QuantizeFlags, AModelThatTrainsInFullHasNothingToQuantise) {
  const Lisa lisa;
  for (const auto& param : lisa.layout.params()) param->trainable = true;
  const auto text = message_of<RequestError>([&] { lisa.chosen({"--quantize", "nf4"}); });
  EXPECT_NE(text.find("--lora_r"), std::string::npos) << text;
}

TEST(QuantizeFlags, WhatTheFilesHoldIsTakenAndNothingElse) {
  const Lisa lisa;
  const PackedNames files(lisa.layout, QuantKind::nf4, true);
  for (const auto& args : {std::vector<std::string>{}, {"--quantize", "nf4"}, {"--load_in_4bit"}}) {
    const auto q = quantization(parse(args), lisa.layout, &files);
    EXPECT_EQ(q.kind, QuantKind::nf4);
    EXPECT_TRUE(q.double_quant);
    EXPECT_EQ(q.weights->size(), 2U);  // of the language model and, as the file has it, of the tower
  }
  for (const auto& args : {std::vector<std::string>{"--quantize", "int8"}, {"--double_quant", "false"}}) {
    const auto text = message_of<RequestError>([&] { quantization(parse(args), lisa.layout, &files); });
    EXPECT_NE(text.find("nf4 with double quantisation"), std::string::npos) << text;
  }
}

TEST(QuantizeFlags, ARunThatDifferentiatesEverythingLeavesTheMatricesOut) {
  const Lisa lisa;
  for (const auto& param : lisa.layout.params()) param->trainable = true;
  const PackedNames files(lisa.layout, QuantKind::nf4, true);
  freeze_quantizable(parse({"--quantize", "nf4"}), lisa.layout, files);
  EXPECT_FALSE(lisa.layout.find("model.layers.0.mlp.down_proj.weight")->trainable);
  EXPECT_TRUE(lisa.layout.find("lm_head.weight")->trainable);
}

TEST(QuantizeFlags, AreDescribedInWords) {
  EXPECT_EQ(describe(quantization(parse({"--load_in_4bit"}), Lisa().layout, nullptr)),
            "2 matrices in nf4 with double quantisation");
  EXPECT_EQ(describe(quantization(parse({"--bits", "8", "--llm_int8_threshold", "2.5"}), Lisa().layout, nullptr)),
            "2 matrices in int8, outliers from 2.5");
}

}  // namespace
}  // namespace tessera::train
