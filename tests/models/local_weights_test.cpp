#include "tessera/models/local_weights.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/tensor_file.hpp"

namespace tessera::models {
namespace {

TEST(LoadLocal, BindsWhatTheFileHolds) {
  const testing_support::TempDir dir;
  const at::Tensor a = at::randn({2, 3});
  io::write_tensors(dir / "w.safetensors", {{"a", a}, {"b", at::randn({4}).to(at::kBFloat16)}});
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("u");
  const nn::Param pa = layout.add(unit, "a", {2, 3}, {});
  const nn::Param pb = layout.add(unit, "b", {4}, {});
  pb->trainable = true;
  load_local(layout, io::SafetensorsReader(dir / "w.safetensors"));
  EXPECT_TRUE(pa->value().equal(a));
  EXPECT_FALSE(pa->value().requires_grad());
  EXPECT_TRUE(pb->value().requires_grad());
  EXPECT_EQ(pb->value().scalar_type(), at::kFloat);
}

TEST(LoadLocal, ListsEverythingThatIsMissingOrMisshapen) {
  const testing_support::TempDir dir;
  io::write_tensors(dir / "w.safetensors", {{"a", at::randn({2, 3})}, {"c", at::randn({1})}});
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("u");
  layout.add(unit, "a", {3, 2}, {});
  layout.add(unit, "b", {4}, {});
  try {
    load_local(layout, io::SafetensorsReader(dir / "w.safetensors"));
    FAIL() << "no error";
  } catch (const RequestError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("'a' is [2,3]"), std::string::npos) << text;
    EXPECT_NE(text.find("'b' is missing"), std::string::npos) << text;
    EXPECT_NE(text.find("'c' is unexpected"), std::string::npos) << text;
  }
}

// As in the references: transformers and torch's load_state_dict(strict=False) go on and name them.
TEST(LoadLocal, GoesOnWithoutTensorsThatNothingTakesAndNamesThem) {
  const testing_support::TempDir dir;
  io::write_tensors(dir / "w.safetensors", {{"a", at::randn({2})}, {"b", at::randn({1})}, {"c", at::randn({1})}});
  nn::ModelLayout layout;
  layout.add(layout.add_unit("u"), "a", {2}, {});
  EXPECT_EQ(load_local(layout, io::SafetensorsReader(dir / "w.safetensors")), (std::vector<std::string>{"b", "c"}));
  EXPECT_TRUE(layout.find("a")->bound());
}

TEST(UnexpectedText, NamesWhatAUserShouldHearOf) {
  nn::ModelLayout layout;
  layout.add(layout.add_unit("u"), "model.embed_tokens.weight", {2}, {});
  const std::vector<std::string> known{"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
                                       "model.vision_tower.vision_tower.text_model.final_layer_norm.bias"};
  EXPECT_EQ(unexpected_text(known, layout), "");
  EXPECT_EQ(unexpected_text({"x"}, layout), "1 tensor of the files is no part of the model: x");
  std::vector<std::string> many(23, "y");
  many.back() = "z";
  const std::string text = unexpected_text(many, layout);
  EXPECT_TRUE(text.starts_with("23 tensors of the files are no part of the model: y, y")) << text;
  EXPECT_TRUE(text.ends_with("y and 3 more")) << text;
}

}  // namespace
}  // namespace tessera::models
