#include "tessera/image/write.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "image/canvas.hpp"
#include "image/support.hpp"
#include "tessera/image/resize.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::noise;
using testing_support::noise_image;
using testing_support::refusal;

TEST(EncodePng, ComesBackPixelForPixel) {
  const Image image = noise_image(13, 29, 4);
  for (const int level : {0, 1, 9}) EXPECT_EQ(decode(bytes_of(encode_png(image, level)), "p").rgb, image.rgb);
  const auto grey = noise(13 * 29, 5);
  EXPECT_EQ(decode_label_map(bytes_of(encode_png_grey(grey, {13, 29})), "g").values, grey);
}

TEST(EncodePng, LabelsKeepIndexAndColour) {
  const LabelMap labels{2, 3, {0, 1, 2, 21, 255, 254}};
  const auto palette = label_palette();
  const std::string file = encode_png_labels(labels, palette);
  EXPECT_TRUE(probe(bytes_of(file), "l").palette);
  EXPECT_EQ(decode_label_map(bytes_of(file), "l").values, labels.values);
  const Image seen = decode(bytes_of(file), "l");
  EXPECT_EQ((Colour{seen.rgb[3], seen.rgb[4], seen.rgb[5]}), (Colour{128, 0, 0}));
  EXPECT_EQ((Colour{seen.rgb[12], seen.rgb[13], seen.rgb[14]}), (Colour{224, 224, 192}));
  EXPECT_THAT(refusal([&] { encode_png_labels(labels, {}); }), HasSubstr("0 colours"));
}

TEST(EncodeJpeg, ComesBackNearlyAndBetterWithMoreQuality) {
  const Image image = resize(noise_image(8, 9, 4), {64, 72}, Filter::bicubic);
  const auto error = [&](int quality) {
    const Image back = decode(bytes_of(encode_jpeg(image, quality)), "j");
    double sum = 0;
    for (std::size_t i = 0; i < back.rgb.size(); ++i) sum += std::abs(back.rgb[i] - image.rgb[i]);
    return sum / static_cast<double>(back.rgb.size());
  };
  EXPECT_LT(error(95), 12);
  EXPECT_LT(error(95), error(30));
  const std::vector<std::uint8_t> hundred(64, 100);
  EXPECT_EQ(decode(bytes_of(encode_jpeg_grey(hundred, {8, 8})), "g").rgb, (std::vector<std::uint8_t>(192, 100)));
}

TEST(Encode, RefusesSizesAndSettingsThatCannotBe) {
  Image image = noise_image(4, 4, 1);
  EXPECT_THAT(refusal([&] { encode_jpeg(image, 0); }), HasSubstr("quality 0"));
  EXPECT_THAT(refusal([&] { encode_png(image, 10); }), HasSubstr("level 10"));
  EXPECT_THAT(refusal([&] { encode_png_grey({1, 2, 3}, {2, 2}); }), HasSubstr("3 bytes"));
  image.height = 5;
  EXPECT_THAT(refusal([&] { encode_png(image); }), HasSubstr("48 bytes"));
  EXPECT_THAT(refusal([] { encode_jpeg(Image()); }), HasSubstr("0 x 0"));
}

TEST(Overlay, HalvesTheImageWithRedInsideTheMask) {
  Image image(1, 2);
  image.rgb = {101, 51, 255, 101, 51, 255};
  Mask mask(1, 2);
  mask.data = {0, 1};
  EXPECT_EQ(overlay(image, mask).rgb, (std::vector<std::uint8_t>{101, 51, 255, 178, 25, 127}));
  EXPECT_THAT(refusal([&] { overlay(image, Mask(2, 1)); }), HasSubstr("does not fit"));
}

TEST(LabelView, ShowsTargetGreenAndIgnoreRedBesideTheImage) {
  Image image(1, 3);
  image.rgb.assign(9, 100);
  Mask label(1, 3);
  label.data = {0, 1, 255};
  const Image view = label_view(image, label);
  ASSERT_EQ(view.size(), (Size{1, 6}));
  EXPECT_EQ((std::vector<std::uint8_t>(view.rgb.begin() + 9, view.rgb.end())),
            (std::vector<std::uint8_t>{100, 100, 100, 40, 193, 40, 193, 40, 40}));
}

TEST(ContactSheet, PlacesEveryImageAndItsCaption) {
  std::vector<SheetItem> items(5);
  for (auto& item : items) {
    item.image = Image(30, 60);
    item.image.rgb.assign(item.image.rgb.size(), 0);
  }
  const Image bare = contact_sheet(items, 3, 64);
  EXPECT_EQ(bare.width, 8 + 3 * 72);
  EXPECT_EQ(bare.row(8 + 32)[3 * (8 + 32)], 0);         // middle of the first tile
  EXPECT_EQ(bare.row(8 + 2)[3 * (8 + 32)], 240);        // its upper margin
  EXPECT_EQ(bare.row(bare.height - 50)[3 * 200], 255);  // no sixth tile
  items[1].caption = "a caption that is much too long for its tile";
  const Image captioned = contact_sheet(items, 3, 64);
  EXPECT_NE(captioned.rgb, bare.rgb);
  for (std::int64_t y = 0; y < bare.height; ++y) {
    for (std::int64_t x = 146; x < bare.width; ++x)
      EXPECT_EQ(captioned.row(y)[3 * x], bare.row(y)[3 * x]);  // stays in its column
  }
  EXPECT_THAT(refusal([] { contact_sheet({}, 3); }), HasSubstr("0 images"));
}

TEST(Canvas, EveryPrintableCharacterHasItsOwnShape) {
  std::set<std::vector<std::uint8_t>> shapes;
  for (char c = '!'; c <= '~'; ++c) {
    Canvas canvas(30, 30, {255, 255, 255});
    canvas.text(5, 22, std::string(1, c), 14, {0, 0, 0});
    const Image image = canvas.take();
    EXPECT_TRUE(std::any_of(image.rgb.begin(), image.rgb.end(), [](int v) { return v < 128; })) << c;
    shapes.insert(image.rgb);
  }
  EXPECT_EQ(shapes.size(), 93U);  // 94 characters; capital O and zero are one
}

TEST(Canvas, UnknownCharactersAreQuestionMarks) {
  EXPECT_EQ(text_width("a\xc3\xa9z", 10), text_width("a?z", 10));
  EXPECT_EQ(text_width("", 10), 0);
}

}  // namespace
}  // namespace tessera::image
