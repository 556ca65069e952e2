#include "tessera/models/tiles.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

/// Tiles of 4 pixels, 4 x 4 features each, side by side.
TileConfig wide(PatchMerge merge) {
  TileConfig config;
  config.merge = merge;
  config.pinpoints = {{4, 8}};
  config.tile = 4;
  config.features = 16;
  return config;
}

/// Which feature stands at each position, -1 for image_newline.
std::vector<std::int64_t> order(const TileConfig& config, const std::vector<TiledPicture>& pictures) {
  std::int64_t tiles = 0;
  for (const auto& picture : pictures) tiles += picture.tiles;
  const at::Tensor features = at::arange(tiles * config.features, at::kFloat).view({tiles, config.features, 1});
  const bool newline = config.merge == PatchMerge::spatial_unpad;
  const at::Tensor found = merge_tiles(config, pictures, features, newline ? at::full({1}, -1.0F) : at::Tensor());
  const at::Tensor flat = found.flatten().to(at::kLong);
  return {flat.data_ptr<std::int64_t>(), flat.data_ptr<std::int64_t>() + flat.numel()};
}

void append(std::vector<std::int64_t>& to, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to.push_back(first + i);
}

// A picture four times as wide as high on a grid twice as wide as high: of four rows of features the middle two stay.
TEST(Tiles, RowsRunThroughTheGridWithoutItsPadding) {
  const TileConfig config = wide(PatchMerge::spatial_unpad);
  const TiledPicture picture = config.picture({4, 16});
  EXPECT_EQ(picture.tiles, 3);
  std::vector<std::int64_t> wanted;
  append(wanted, 0, 16);
  for (const std::int64_t row : {1, 2}) {
    append(wanted, 16 + 4 * row, 4);
    append(wanted, 32 + 4 * row, 4);
    wanted.push_back(-1);
  }
  EXPECT_EQ(order(config, {picture}), wanted);
  EXPECT_EQ(config.positions(picture), std::ssize(wanted));
}

TEST(Tiles, ATallPicturesPaddingIsLeftAndRight) {
  TileConfig config = wide(PatchMerge::spatial_unpad);
  config.pinpoints = {{8, 4}};
  const TiledPicture picture = config.picture({16, 4});
  std::vector<std::int64_t> wanted;
  append(wanted, 0, 16);
  for (std::int64_t row = 0; row < 8; ++row) {
    append(wanted, 16 + 4 * row + 1, 2);
    wanted.push_back(-1);
  }
  EXPECT_EQ(order(config, {picture}), wanted);
  EXPECT_EQ(config.positions(picture), std::ssize(wanted));
}

TEST(Tiles, SpatialKeepsThePaddingAndFlatTheTiles) {
  const TileConfig spatial = wide(PatchMerge::spatial), flat = wide(PatchMerge::flat);
  std::vector<std::int64_t> rows, tiles;
  append(rows, 0, 16);
  for (std::int64_t row = 0; row < 4; ++row) {
    append(rows, 16 + 4 * row, 4);
    append(rows, 32 + 4 * row, 4);
  }
  append(tiles, 0, 48);
  EXPECT_EQ(order(spatial, {{3, {4, 16}}}), rows);
  EXPECT_EQ(order(flat, {{3, {4, 16}}}), tiles);
  EXPECT_EQ(spatial.positions({3, {4, 16}}), 48);
  EXPECT_EQ(flat.positions({3, {4, 16}}), 48);
}

TEST(Tiles, PicturesFollowEachOtherAndOneTileHasOneNewline) {
  const TileConfig config = wide(PatchMerge::spatial_unpad);
  const std::vector<TiledPicture> pictures{{1, {}}, config.picture({4, 16}), {1, {}}};
  const auto found = order(config, pictures);
  const std::int64_t middle = config.positions(pictures[1]);
  ASSERT_EQ(std::ssize(found), 17 + middle + 17);
  EXPECT_EQ(found[16], -1);
  EXPECT_EQ(found[17], 16);
  EXPECT_EQ(found[static_cast<std::size_t>(17 + middle)], 4 * 16);
  EXPECT_EQ(found.back(), -1);
}

TEST(Tiles, TheNewlinesGradientIsTheSumOverItsPlaces) {
  const TileConfig config = wide(PatchMerge::spatial_unpad);
  const at::Tensor newline = at::ones({2}).requires_grad_();
  const at::Tensor features = at::ones({4, 16, 2}).requires_grad_();
  merge_tiles(config, {config.picture({4, 16}), {1, {}}}, features, newline).sum().backward();
  EXPECT_TRUE(newline.grad().equal(at::full({2}, 3.0F)));
  EXPECT_EQ(features.grad().sum().item<double>(), 2.0 * (16 + 2 * 8 + 16)) << "what is cut off has none";
  const at::Tensor whole = merge_tiles(config, {}, features, newline);
  EXPECT_TRUE(whole.equal(features));
  newline.mutable_grad() = at::Tensor();
  whole.sum().backward();
  EXPECT_EQ(newline.grad().abs().sum().item<double>(), 0.0) << "in the graph, without a place";
}

// 49 * (4 / 196) is a hair below 1: transformers' rounding makes it 1 row of 2, the original's cut 0.
TEST(Tiles, TransformersRoundsWhatIsLeft) {
  TileConfig config = wide(PatchMerge::spatial_unpad);
  config.features = 4;
  const TiledPicture picture = config.picture({49, 196});
  EXPECT_EQ(config.positions(picture), 4);
  config.rounds = true;
  EXPECT_EQ(config.positions(picture), 4 + 2 * 5);
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(Tiles, AsManyAsTheSizeAsksForOrOne) {
  const TileConfig config = wide(PatchMerge::flat);
  EXPECT_NE(refusal([&] {
              (void)config.positions({2, {4, 16}});
            }).find("16 x 4 pixels is in 2 tiles"),
            std::string::npos);
  EXPECT_NE(refusal([&] { (void)config.positions({3, {0, 16}}); }).find("size 16 x 0"), std::string::npos);
}

VisionTowerConfig tower() {
  VisionTowerConfig config;
  config.clip.image_size = 14;
  config.clip.patch_size = 7;
  return config;
}

TEST(TileConfig, ReadsTheOriginalsConfig) {
  nlohmann::json json{{"image_aspect_ratio", "anyres"},
                      {"mm_patch_merge_type", "spatial_unpad"},
                      {"image_grid_pinpoints", {{14, 28}, {42, 14}}}};
  const auto list = TileConfig::from_original(json, tower());
  ASSERT_TRUE(list);
  EXPECT_EQ(list->merge, PatchMerge::spatial_unpad);
  EXPECT_EQ(list->pinpoints, (image::GridPinpoints{{28, 14}, {14, 42}})) << "width comes first";
  EXPECT_EQ(list->tile, 14);
  EXPECT_EQ(list->features, 4);
  EXPECT_FALSE(list->rounds);
  json["image_grid_pinpoints"] = "[(14, 28), (42, 14)]";
  EXPECT_EQ(TileConfig::from_original(json, tower())->pinpoints, list->pinpoints);
  json["image_grid_pinpoints"] = "(1x1),...,(2x2)";
  EXPECT_EQ(TileConfig::from_original(json, tower())->pinpoints.size(), 4U);
  for (const nlohmann::json other : {"square", "pad", "anything"}) {
    json["image_aspect_ratio"] = other;
    EXPECT_FALSE(TileConfig::from_original(json, tower())) << other;
  }
  EXPECT_FALSE(TileConfig::from_original({{"image_aspect_ratio", nullptr}}, tower()));
}

TEST(TileConfig, RefusesWhatGivesNoGrid) {
  const auto refused = [](nlohmann::json json, const VisionTowerConfig& of) {
    return refusal([&] { (void)TileConfig::from_original(json, of); });
  };
  nlohmann::json json{{"image_aspect_ratio", "anyres"}, {"mm_patch_merge_type", "spatial"}};
  EXPECT_NE(refused(json, tower()).find("--image_grid_pinpoints"), std::string::npos);
  json["image_grid_pinpoints"] = {{15, 28}};
  EXPECT_NE(refused(json, tower()).find("15 x 28"), std::string::npos);
  json["image_grid_pinpoints"] = {{14, 28}};
  EXPECT_EQ(refused(json, tower()), "");
  VisionTowerConfig with_class = tower();
  with_class.class_token = true;
  EXPECT_NE(refused(json, with_class).find("class token"), std::string::npos);
  json["image_aspect_ratio"] = "anyres_max_9";
  json["mm_patch_merge_type"] = "flat";
  EXPECT_EQ(refused(json, with_class), "");
  json["mm_patch_merge_type"] = "diagonal";
  EXPECT_NE(refused(json, tower()).find("'diagonal'"), std::string::npos);
}

// Counted by transformers' llava_onevision (pack_image_features).
TEST(TileConfig, ScalesDownWhatIsMoreThanTheMostTiles) {
  VisionTowerConfig tower;
  tower.clip.image_size = 384;
  tower.clip.patch_size = 14;
  const auto config = [&](const char* aspect, const char* merge) {
    return TileConfig::from_original({{"image_aspect_ratio", aspect},
                                      {"mm_patch_merge_type", merge},
                                      {"image_grid_pinpoints", "(1x1),...,(6x6)"}},
                                     tower)
        .value();
  };
  const auto positions = [](const TileConfig& c, image::Size size) { return c.positions(c.picture(size)); };
  const TileConfig nine = config("anyres_max_9", "spatial_unpad");
  EXPECT_EQ(nine.most_tiles, 9);
  for (const auto& [size, wanted] : std::vector<std::pair<image::Size, std::int64_t>>{{{2304, 2304}, 7371},
                                                                                      {{1500, 1123}, 7332},
                                                                                      {{500, 2400}, 6271},
                                                                                      {{3000, 333}, 3645},
                                                                                      {{400, 300}, 1737},
                                                                                      {{1152, 1152}, 7371}}) {
    EXPECT_EQ(positions(nine, size), wanted) << size.height << " x " << size.width;
  }
  // The others stay as they are.
  EXPECT_EQ(config("anyres_max_9", "spatial").most_tiles, 0);
  EXPECT_EQ(positions(config("anyres_max_9", "spatial"), {2304, 2304}), 729 * 37);
  EXPECT_EQ(config("anyres", "spatial_unpad").most_tiles, 0);
}

TEST(TileConfig, ReadsTransformersConfigWhoseHeightComesFirst) {
  const TileConfig published = TileConfig::from_transformers(nlohmann::json::object(), [] {
    VisionTowerConfig large;
    large.clip.image_size = 336;
    return large;
  }());
  EXPECT_EQ(published.pinpoints.size(), 5U);
  EXPECT_EQ(published.merge, PatchMerge::spatial_unpad);
  EXPECT_TRUE(published.rounds);
  // The processor of llava-v1.6 makes 5 tiles of a photograph of 640 x 480 pixels, and 2340 placeholders of them.
  const TiledPicture photograph = published.picture({480, 640});
  EXPECT_EQ(photograph.tiles, 5);
  EXPECT_EQ(published.positions(photograph), 576 + 36 * 49);
  const TileConfig own = TileConfig::from_transformers({{"image_grid_pinpoints", {{14, 28}}}}, tower());
  EXPECT_EQ(own.pinpoints, (image::GridPinpoints{{14, 28}}));
}

}  // namespace
}  // namespace tessera::models
