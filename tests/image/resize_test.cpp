#include "tessera/image/resize.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/resample.hpp"
#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::checksum;
using testing_support::golden;
using testing_support::noise_image;
using testing_support::refusal;

TEST(Resize, GivesPillowsPixelsForEveryFilter) {
  for (const auto& want : golden("resize")) {
    SCOPED_TRACE(want.dump());
    const Image image = noise_image(want["from"][0], want["from"][1], want["seed"]);
    const Image out = resize(image, {want["to"][0], want["to"][1]}, static_cast<Filter>(want["filter"].get<int>()));
    EXPECT_EQ(checksum(out.rgb), want["rgb"]);
    const std::vector<int> first(out.rgb.begin(), out.rgb.begin() + static_cast<std::ptrdiff_t>(want["first"].size()));
    EXPECT_EQ(first, want["first"].get<std::vector<int>>());
  }
}

TEST(Resize, CropIsThePartOfTheWhole) {
  const Image image = noise_image(61, 47, 5);
  for (const Filter filter : {Filter::nearest, Filter::bilinear, Filter::bicubic}) {
    for (const Size to : {Size{33, 70}, Size{61, 30}, Size{100, 47}, Size{61, 47}}) {
      const Image whole = resize(image, to, filter);
      const Box box{3, 5, 20, 19};
      EXPECT_EQ(resize_crop(image, to, filter, box).rgb, crop(whole, box).rgb);
    }
  }
}

TEST(Resize, VectorisedAndPlainLoopsAgree) {
  if (!resample::have_avx2()) GTEST_SKIP() << "this processor has no AVX2";
  const Image image = noise_image(23, 51, 9);
  for (const std::int64_t to : {1, 2, 7, 30, 51, 140}) {
    const auto weights = resample::make_weights(image.width, to, Filter::lanczos, 0, to);
    Image fast(image.height, to), plain(image.height, to);
    resample::horizontal_avx2(image.rgb.data(), image.width, image.height, weights, fast.rgb.data());
    resample::horizontal_scalar(image.rgb.data(), image.width, image.height, weights, plain.rgb.data());
    EXPECT_EQ(fast.rgb, plain.rgb) << to;

    const auto down = resample::make_weights(image.height, to, Filter::bicubic, 0, to);
    const std::int64_t bytes = image.width * 3;
    std::vector<std::uint8_t> a(static_cast<std::size_t>(bytes)), b(a);
    for (std::int64_t i = 0; i < to; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto first = at * static_cast<std::size_t>(down.stride);
      resample::vertical_row_avx2(image.row(down.first[at]), bytes, bytes, down.count[at], &down.full[first],
                                  &down.high[first], &down.low[first], a.data());
      resample::vertical_row_scalar(image.row(down.first[at]), bytes, 0, bytes, down.count[at], &down.full[first],
                                    b.data());
      EXPECT_EQ(a, b) << to << " row " << i;
    }
  }
}

TEST(Resize, ThousandsOfTapsDoNotOverflow) {
  Image image(1, 9001);
  for (auto& value : image.rgb) value = 255;
  EXPECT_EQ(resize(image, {1, 1}, Filter::lanczos).rgb, (std::vector<std::uint8_t>{255, 255, 255}));
}

TEST(Resize, RefusesEmptySizesAndCropsBeyond) {
  const Image image = noise_image(4, 5, 1);
  EXPECT_THAT(refusal([&] { resize(image, {0, 5}, Filter::bilinear); }), HasSubstr("5 x 0"));
  EXPECT_THAT(refusal([&] { resize(Image(), {3, 3}, Filter::bilinear); }), HasSubstr("cannot be resized"));
  EXPECT_THAT(refusal([&] { resize_crop(image, {8, 8}, Filter::bilinear, {1, 0, 8, 8}); }), HasSubstr("leaves"));
}

TEST(Resize, GeometryOfSamAndClip) {
  EXPECT_EQ(sam_size({480, 640}, 1024), (Size{768, 1024}));
  EXPECT_EQ(sam_size({333, 500}, 1024), (Size{682, 1024}));  // 681.98…
  EXPECT_EQ(sam_size({1200, 1800}, 1024), (Size{683, 1024}));
  EXPECT_EQ(clip_size({480, 640}, 224), (Size{224, 298}));  // truncated
  EXPECT_EQ(clip_size({640, 427}, 336), (Size{503, 336}));
  EXPECT_EQ(clip_size({50, 50}, 224), (Size{224, 224}));
}

TEST(Resize, CenterBoxRoundsDownAlsoBeyondTheImage) {
  const auto box = [](Size from, Size to) {
    const Box b = center_box(from, to);
    return std::vector<std::int64_t>{b.top, b.left, b.height, b.width};
  };
  EXPECT_EQ(box({298, 225}, {224, 224}), (std::vector<std::int64_t>{37, 0, 224, 224}));
  EXPECT_EQ(box({5, 8}, {8, 5}), (std::vector<std::int64_t>{-2, 1, 8, 5}));
}

TEST(ResizeNearest, KeepsLabels) {
  const std::vector<std::uint8_t> plane{1, 2, 3, 4, 5, 255};
  EXPECT_EQ(resize_nearest(plane, {2, 3}, {4, 3}), (std::vector<std::uint8_t>{1, 2, 3, 1, 2, 3, 4, 5, 255, 4, 5, 255}));
  EXPECT_EQ(resize_nearest(plane, {2, 3}, {1, 1}), (std::vector<std::uint8_t>{5}));
}

TEST(ExpandToSquare, CentresOnTheBackground) {
  Image image(1, 4);
  for (auto& value : image.rgb) value = 9;
  const Image square = expand_to_square(image, {1, 2, 3});
  EXPECT_EQ(square.size(), (Size{4, 4}));
  EXPECT_EQ(square.row(0)[0], 1);
  EXPECT_EQ(square.row(1)[11], 9);  // offset floor(3 / 2)
  EXPECT_EQ(square.row(3)[5], 3);
}

}  // namespace
}  // namespace tessera::image
