#include "tessera/models/vision_tower.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

VisionTowerConfig small() {
  VisionTowerConfig config;
  config.clip.hidden_size = 8;
  config.clip.intermediate_size = 12;
  config.clip.layers = 3;
  config.clip.heads = 2;
  config.clip.image_size = 10;
  config.clip.patch_size = 5;
  return config;
}

at::Tensor features(const VisionTowerConfig& config, const at::Tensor& pixels) {
  nn::ModelLayout layout;
  const auto tower = make_vision_tower(layout, config, "tower");
  nn::materialize(layout, 1);
  nn::LocalRunner runner;
  return tower->features(pixels, runner, {});
}

TEST(VisionTower, SelectsALayerWithOrWithoutTheClassToken) {
  const at::Tensor pixels = at::randn({2, 3, 10, 10});
  VisionTowerConfig config = small();
  const at::Tensor patches = features(config, pixels);
  ASSERT_EQ(patches.sizes(), (at::IntArrayRef{2, config.tokens(), config.width()}));
  config.class_token = true;
  const at::Tensor all = features(config, pixels);
  EXPECT_EQ(all.size(1), config.tokens());
  EXPECT_EQ(testing_support::distance(all.narrow(1, 1, 4), patches), 0.0);
}

TEST(VisionTower, SeveralLayersStandSideBySide) {
  const at::Tensor pixels = at::randn({1, 3, 10, 10});
  VisionTowerConfig config = small();
  config.select_layers = {-1, 1};
  const at::Tensor both = features(config, pixels);
  EXPECT_EQ(both.size(2), config.width());
  config.select_layers = {1};
  EXPECT_EQ(testing_support::distance(both.narrow(2, 8, 8), features(config, pixels)), 0.0);
}

TEST(VisionTower, TakesNoPictureAtAll) {
  EXPECT_EQ(features(small(), at::randn({0, 3, 10, 10})).sizes(), (at::IntArrayRef{0, 4, 8}));
}

TEST(VisionTower, RefusesALayerThatIsNotThere) {
  VisionTowerConfig config = small();
  config.select_layers = {4};
  nn::ModelLayout layout;
  EXPECT_THROW(make_vision_tower(layout, config, "tower"), RequestError);
}

}  // namespace
}  // namespace tessera::models
