#include "tessera/models/clip.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

ClipVisionConfig small() {
  ClipVisionConfig config;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.layers = 3;
  config.heads = 2;
  config.image_size = 15;
  config.patch_size = 5;
  return config;
}

TEST(ClipVision, LayersAboveTheSelectedOneStayIdle) {
  nn::ModelLayout layout;
  const ClipVision clip(layout, small(), "vision_model", ClipVision::layers_for(-2, 3));
  int idle = 0;
  for (const nn::Unit& unit : layout.units()) idle += unit.idle ? 1 : 0;
  EXPECT_EQ(idle, 2);  // the last layer and the last norm
  nn::materialize(layout, 1);
  nn::LocalRunner runner;
  nn::Tensors trace;
  const at::Tensor out = clip.forward(at::randn({2, 3, 15, 15}), runner, {}, &trace);
  EXPECT_EQ(out.sizes(), (at::IntArrayRef{2, 10, 12}));
  ASSERT_EQ(trace.size(), 3U);
  EXPECT_TRUE(trace.back().equal(out));
}

TEST(ClipVision, AcceptsABatchWithoutImages) {
  nn::ModelLayout layout;
  const ClipVision clip(layout, small(), "vision_model");
  nn::materialize(layout, 1);
  nn::LocalRunner runner;
  EXPECT_EQ(clip.forward(at::randn({0, 3, 15, 15}), runner, {}).sizes(), (at::IntArrayRef{0, 10, 12}));
}

TEST(ClipVision, RefusesAPictureOfAnotherSize) {
  nn::ModelLayout layout;
  const ClipVision clip(layout, small(), "vision_model");
  nn::LocalRunner runner;
  for (const std::int64_t width : {14, 16, 30}) {
    try {
      clip.forward(at::randn({1, 3, 15, width}), runner, {});
      FAIL() << "no error for " << width;
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find("not interpolated"), std::string::npos) << error.what();
    }
  }
}

TEST(ClipVision, PatchDropsTheClassTokenAlone) {
  const at::Tensor hidden = at::randn({2, 5, 3});
  EXPECT_TRUE(select_feature(hidden, select_feature_from_name("patch")).equal(hidden.narrow(1, 1, 4)));
  EXPECT_TRUE(select_feature(hidden, select_feature_from_name("cls_patch")).equal(hidden));
  EXPECT_THROW(select_feature_from_name("cls"), RequestError);
}

TEST(ClipVision, CountsSelectedLayersFromBothEnds) {
  EXPECT_EQ(ClipVision::layers_for(-2, 24), 23);
  EXPECT_EQ(ClipVision::layers_for(-1, 24), 24);
  EXPECT_EQ(ClipVision::layers_for(5, 24), 5);
  EXPECT_THROW(ClipVision::layers_for(25, 24), RequestError);
  EXPECT_THROW(ClipVision::layers_for(-26, 24), RequestError);
}

TEST(ClipVisionConfig, ReadsBothFormsAndNamesABadKey) {
  const auto plain = nlohmann::json::parse(R"({"hidden_size": 8, "num_attention_heads": 2, "hidden_act": "gelu"})");
  EXPECT_EQ(ClipVisionConfig::from_json(plain).hidden_size, 8);
  EXPECT_EQ(ClipVisionConfig::from_json({{"vision_config", plain}}).heads, 2);
  try {
    ClipVisionConfig::from_json(nlohmann::json::parse(R"({"hidden_size": "eight"})"));
    FAIL() << "no error";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("hidden_size"), std::string::npos);
  }
  EXPECT_THROW(ClipVisionConfig::from_json(nlohmann::json::parse(R"({"hidden_size": 8, "num_attention_heads": 3})")),
               RequestError);
}

}  // namespace
}  // namespace tessera::models
