#include "tessera/image/preprocess.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::checksum;
using testing_support::golden;
using testing_support::Json;
using testing_support::noise_image;
using testing_support::refusal;

const NamedArray& find(const std::vector<NamedArray>& arrays, const std::string& name) {
  for (const auto& array : arrays) {
    if (array.name == name) return array;
  }
  throw std::runtime_error("no array " + name);
}

PreprocessRequest request_for(const Json& want) {
  const std::string kind = want["kind"];
  const std::int64_t size = want["size"];
  PreprocessRequest request;
  request.clip = with_size({}, size);
  if (kind == "sam") {
    request.kind = PreprocessRequest::Kind::sam;
    request.size = size;
  } else if (kind == "pad" || kind == "anyres") {
    request.aspect = aspect_from_name(kind);
    if (kind == "anyres") request.pinpoints = pinpoints_from_text(want["pinpoints"].dump(), size, "pinpoints");
  } else if (kind == "crop_beyond") {
    request.clip.crop = {21, 19};
  } else if (kind == "unit") {
    request.clip = unit_image_config(size);
  }
  return request;
}

TEST(Preprocess, GivesThePackagesFloatsToTheLastBit) {
  int cases = 0;
  for (const auto& want : golden("preprocess")) {
    SCOPED_TRACE(want.dump());
    const Image image = noise_image(want["from"][0], want["from"][1], want["seed"]);
    const PreprocessRequest request = request_for(want);
    const auto arrays = run_preprocess(image, request);
    const NamedArray& pixels = find(arrays, "pixel_values");
    EXPECT_EQ(pixels.shape, want["shape"].get<std::vector<std::int64_t>>());
    float first[4];
    std::memcpy(first, pixels.bytes.data(), sizeof first);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(first[i], want["first"][i].get<float>());
    EXPECT_EQ(checksum(pixels.bytes), want["values"]);
    if (want.contains("resized")) {
      std::int64_t size[2];
      std::memcpy(size, find(arrays, "resize").bytes.data(), sizeof size);
      EXPECT_EQ(Json({size[0], size[1]}), want["resized"]);
    }
    EXPECT_EQ(count_views(image.size(), request.clip, request.aspect, request.pinpoints), pixels.shape[0]);
    ++cases;
  }
  EXPECT_EQ(cases, 26);
}

TEST(Preprocess, WritesIntoTheSliceItIsGiven) {
  const Image image = noise_image(30, 41, 3);
  const ClipImageConfig config = with_size({}, 16);
  std::vector<float> batch(2 * 3 * 16 * 16, -7.0F);
  clip_pixels(image, config, Aspect::square, std::span(batch).subspan(3 * 16 * 16));
  EXPECT_EQ(batch[0], -7.0F);
  EXPECT_EQ(batch[3 * 16 * 16 - 1], -7.0F);
  EXPECT_NE(batch[3 * 16 * 16], -7.0F);
  EXPECT_NE(batch.back(), -7.0F);
  EXPECT_THAT(refusal([&] { clip_pixels(image, config, Aspect::square, batch); }), HasSubstr("room for"));

  std::vector<float> planes(3 * 20 * 20, -7.0F);
  EXPECT_EQ(sam_pixels(image, 20, planes), (Size{15, 20}));
  EXPECT_EQ(planes[15 * 20], 0.0F);
  EXPECT_EQ(std::count(planes.begin(), planes.end(), -7.0F), 0);
}

TEST(Preprocess, RefusesASideThatVanishes) {
  EXPECT_THAT(refusal([] { sam_resize(Image(1, 3000), 1024); }), HasSubstr("cannot be resized"));
}

TEST(Preprocess, ResizedIsWhatWasCropped) {
  PreprocessRequest request;
  request.clip = with_size({}, 16);
  const auto arrays = run_preprocess(noise_image(30, 41, 3), request);
  EXPECT_EQ(find(arrays, "resized").shape, (std::vector<std::int64_t>{16, 16, 3}));
  std::int64_t sizes[4];
  std::memcpy(sizes, find(arrays, "resize").bytes.data(), 16);
  std::memcpy(sizes + 2, find(arrays, "original_size").bytes.data(), 16);
  EXPECT_THAT(sizes, testing::ElementsAre(16, 21, 30, 41));
}

TEST(ClipImageConfig, ReadsEveryFormOfSize) {
  const auto read = [](std::string_view text) { return clip_config_from_json(text, "p.json"); };
  const auto config =
      read(R"({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 330}, "resample": 2,
    "image_mean": [0.5, 0.25, 0], "image_std": [1, 2, 3], "do_center_crop": false, "rescale_factor": 0.5, "unknown": 1})");
  EXPECT_EQ(config.shortest_edge, 336);
  EXPECT_EQ(config.crop, (Size{336, 330}));
  EXPECT_EQ(config.resample, Filter::bilinear);
  EXPECT_EQ(config.mean[1], 0.25);
  EXPECT_EQ(config.std[2], 3);
  EXPECT_FALSE(config.center_crop);
  EXPECT_EQ(config.rescale_factor, 0.5);
  EXPECT_EQ(read(R"({"size": 224, "crop_size": 220})").crop, (Size{220, 220}));
  const auto fixed = read(R"({"size": {"height": 30, "width": 40}, "do_center_crop": false})");
  EXPECT_EQ(clip_output_size({100, 900}, fixed), (Size{30, 40}));
  EXPECT_EQ(read("{}").shortest_edge, 224);
}

TEST(ClipImageConfig, NamesTheKeyThatIsWrong) {
  const auto reason = [](std::string_view text) { return refusal([&] { clip_config_from_json(text, "p.json"); }); };
  EXPECT_THAT(reason("{"), HasSubstr("p.json"));
  EXPECT_THAT(reason("[1]"), HasSubstr("no JSON object"));
  EXPECT_THAT(reason(R"({"size": "big"})"), HasSubstr("'size'"));
  EXPECT_THAT(reason(R"({"size": {"shortest_edge": 0}})"), HasSubstr("size.shortest_edge"));
  EXPECT_THAT(reason(R"({"crop_size": {"height": 3}})"), HasSubstr("crop_size"));
  EXPECT_THAT(reason(R"({"image_mean": [1, 2]})"), HasSubstr("image_mean"));
  EXPECT_THAT(reason(R"({"image_std": [1, 0, 2]})"), HasSubstr("image_std"));
  EXPECT_THAT(reason(R"({"resample": 9})"), HasSubstr("resample"));
  EXPECT_THAT(reason(R"({"do_resize": 1})"), HasSubstr("do_resize"));
}

TEST(GridPinpoints, AreListsTextsAndRanges) {
  const GridPinpoints want{{672, 336}, {336, 672}};
  EXPECT_EQ(pinpoints_from_text("[[336, 672], [672, 336]]", 336, "c"), want);
  EXPECT_EQ(pinpoints_from_text("[(336, 672), (672, 336)]", 336, "c"), want);
  const auto range = pinpoints_from_text("(1x1),...,(2x3)", 10, "c");
  EXPECT_EQ(range.size(), 6U);
  EXPECT_EQ(range[1], (Size{20, 10}));
  EXPECT_EQ(range.back(), (Size{30, 20}));
  for (const std::string_view bad : {"", "[]", "[1]", "[[1]]", "[[0, 5]]", "(2x2),...,(1x1)", "x", "(1x99999999999)"}) {
    EXPECT_NE(refusal([&] { pinpoints_from_text(bad, 10, "c"); }), "") << bad;
  }
}

TEST(Aspect, UnknownNamesAreRefused) {
  EXPECT_EQ(aspect_from_name("anyres_max_9"), Aspect::anyres);
  EXPECT_THAT(refusal([] { aspect_from_name("squre"); }), HasSubstr("squre"));
}

}  // namespace
}  // namespace tessera::image
