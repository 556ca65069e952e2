#include "tessera/image/augment.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::checksum;
using testing_support::golden;
using testing_support::noise_image;
using testing_support::refusal;

constexpr AugmentConfig kEverything{.flip = 0.5,
                                    .crop_min_area = 0.3,
                                    .scale_min = 0.5,
                                    .scale_max = 1.5,
                                    .brightness = 0.4,
                                    .contrast = 0.4,
                                    .saturation = 0.4};

TEST(Augment, ColoursEqualPillowsImageEnhance) {
  int cases = 0;
  for (const auto& want : golden("enhance")) {
    SCOPED_TRACE(want.dump());
    const Image image = noise_image(want["size"][0], want["size"][1], want["seed"]);
    const double factor = want["factor"];
    const std::string kind = want["kind"];
    const Image out = kind == "Brightness" ? adjust_brightness(image, factor)
                      : kind == "Contrast" ? adjust_contrast(image, factor)
                                           : adjust_saturation(image, factor);
    EXPECT_EQ(checksum(out.rgb), want["rgb"]);
    ++cases;
  }
  EXPECT_EQ(cases, 18);
}

TEST(Augment, IsOffByDefault) {
  const Image image = noise_image(9, 14, 2);
  EXPECT_FALSE(AugmentConfig().any());
  EXPECT_TRUE(kEverything.any());
  for (std::uint64_t key = 0; key < 20; ++key) {
    RandomSequence random(key);
    EXPECT_EQ(augment(image, draw_augmentation({}, image.size(), random)).rgb, image.rgb);
  }
}

TEST(Augment, ImageAndMaskStayOnEachOther) {
  // The mask marks the white part of the picture; after any augmentation of geometry it still does, up to the seam.
  Image image(60, 80);
  Mask mask(60, 80);
  fill_polygon(mask, std::vector<Point>{{10, 5}, {70, 15}, {30, 55}}, 1);
  for (std::size_t i = 0; i < mask.data.size(); ++i) {
    for (std::size_t c = 0; c < 3; ++c) image.rgb[3 * i + c] = mask.data[i] ? 255 : 0;
  }
  AugmentConfig geometry = kEverything;
  geometry.brightness = geometry.contrast = geometry.saturation = 0;
  int flipped = 0, cropped = 0;
  for (std::uint64_t key = 0; key < 40; ++key) {
    RandomSequence random(key);
    const Augmentation what = draw_augmentation(geometry, image.size(), random);
    const Image picture = augment(image, what);
    const Mask moved = augment(mask, what);
    ASSERT_EQ(picture.size(), moved.size());
    std::int64_t differ = 0;
    for (std::size_t i = 0; i < moved.data.size(); ++i) differ += (picture.rgb[3 * i] > 127) != (moved.data[i] == 1);
    EXPECT_LT(static_cast<double>(differ), 0.05 * static_cast<double>(moved.data.size())) << key;
    flipped += what.flip;
    cropped += what.crop.height < 60;
  }
  EXPECT_GT(flipped, 8);
  EXPECT_LT(flipped, 32);
  EXPECT_GT(cropped, 20);
}

TEST(Augment, DrawsDependOnTheKeyAloneAndNotOnOtherSettings) {
  AugmentConfig without_colour = kEverything, without_crop = kEverything;
  without_colour.brightness = without_colour.contrast = without_colour.saturation = 0;
  without_crop.crop_min_area = 1;
  int differ = 0;
  for (std::uint64_t key = 0; key < 20; ++key) {
    RandomSequence a(key), b(key), c(key), d(key), e(key + 100);
    const auto first = draw_augmentation(kEverything, {50, 70}, a), again = draw_augmentation(kEverything, {50, 70}, b);
    EXPECT_EQ(first.size, again.size);
    EXPECT_EQ(first.factors, again.factors);
    EXPECT_EQ(draw_augmentation(without_colour, {50, 70}, c).size, first.size);
    EXPECT_EQ(draw_augmentation(without_crop, {50, 70}, d).factors, first.factors);
    differ += draw_augmentation(kEverything, {50, 70}, e).factors != first.factors;
  }
  EXPECT_EQ(differ, 20);
}

TEST(Augment, TextThatNamesSidesForbidsTheFlip) {
  AugmentConfig always;
  always.flip = 1;
  RandomSequence a(1), b(1);
  EXPECT_TRUE(draw_augmentation(always, {5, 5}, a).flip);
  EXPECT_FALSE(draw_augmentation(always, {5, 5}, b, false).flip);
}

TEST(Augment, NamesTheSettingThatIsOutOfRange) {
  const auto reason = [](AugmentConfig config) { return refusal([&] { check(config); }); };
  EXPECT_EQ(reason(kEverything), "");
  EXPECT_THAT(reason({.flip = 1.5}), HasSubstr("flip is 1.5"));
  EXPECT_THAT(reason({.crop_min_area = 0}), HasSubstr("crop_min_area"));
  EXPECT_THAT(reason({.scale_min = 2}), HasSubstr("scale_min"));
  EXPECT_THAT(reason({.brightness = -1}), HasSubstr("brightness"));
  EXPECT_THAT(refusal([] {
                augment(Mask(3, 3), Augmentation{.crop = {0, 0, 4, 4}, .size = {4, 4}});
              }),
              HasSubstr("another size"));
}

}  // namespace
}  // namespace tessera::image
