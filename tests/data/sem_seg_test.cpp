#include "tessera/data/sem_seg.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/write.hpp"

namespace tessera::data {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

constexpr image::Size kSize{4, 6};

/// A label map whose columns hold the given values.
std::string columns(const std::vector<std::uint8_t>& values) {
  std::vector<std::uint8_t> pixels;
  for (std::int64_t y = 0; y < kSize.height; ++y) pixels.insert(pixels.end(), values.begin(), values.end());
  return image::encode_png_grey(pixels, kSize);
}

Sample forced(const Reader& reader, std::int64_t item, std::vector<std::int32_t> choices,
              std::vector<image::Rle>* masks = nullptr) {
  std::vector<Choices> draws{Choices(std::move(choices))};
  auto made = reader.make(item, kSize, draws);
  if (masks != nullptr) *masks = made.masks;
  return made.samples.at(0);
}

std::string problem_of(const Reader& reader, std::int64_t item) {
  std::vector<Choices> draws{choices_of(0, "", "", 0)};
  try {
    reader.make(item, kSize, draws);
  } catch (const BrokenSample& broken) {
    return broken.what();
  }
  return "";
}

TEST(SemSeg, Ade20kCountsFromOneAndLeavesOutZero) {
  const TempDir dir;
  write_file(dir / "ade20k/images/training/a.jpg", "");
  write_file(dir / "ade20k/annotations/training/a.png", columns({0, 1, 1, 3, 255, 0}));
  const auto reader = sem_seg_training(dir.path(), "ade20k", {});
  ASSERT_EQ(reader->items().size(), 1U);
  EXPECT_EQ(reader->items()[0].image, "ade20k/images/training/a.jpg");
  std::vector<image::Rle> masks;
  const auto sample = forced(*reader, 0, {0, 4, 2, 0}, &masks);
  ASSERT_EQ(sample.conversations.size(), 2U);
  EXPECT_EQ(sample.conversations[0].messages,
            (std::vector<std::string>{"<image>\nCan you segment the wall in this image?", "[SEG]."}));
  EXPECT_EQ(sample.conversations[1].question, "sky");
  ASSERT_EQ(masks.size(), 2U);
  EXPECT_EQ(image::rle_area(masks[0]), 2 * kSize.height);
  EXPECT_EQ(image::rle_bounds(masks[1]), (image::Rectangle{3, 0, 1, 4}));
}

TEST(SemSeg, CocoStuffLeavesOutTheClassesWithADash) {
  const TempDir dir;
  // 0 person, 92 banner, 94 branch … ; "wall-…" and "…-other" are no classes.
  std::vector<std::uint8_t> values{0, 0, 255, 0, 0, 0};
  write_file(dir / "cocostuff/train2017/b.png", columns(values));
  const auto reader = sem_seg_training(dir.path(), "cocostuff", {});
  EXPECT_EQ(reader->items()[0].image, "coco/train2017/b.jpg");
  EXPECT_EQ(forced(*reader, 0, {0, 0}).conversations[0].question, "person");
  int classes = 0;
  for (int v = 0; v < 182; ++v) {
    write_file(dir / "cocostuff/train2017/b.png", columns(std::vector<std::uint8_t>(6, static_cast<std::uint8_t>(v))));
    std::vector<Choices> draws{choices_of(0, "", "", 0)};
    classes += reader->make(0, kSize, draws).samples.empty() ? 0 : 1;
  }
  EXPECT_EQ(classes, 182 - 28);
}

TEST(SemSeg, MapillaryTakesItsNamesFromItsConfiguration) {
  const TempDir dir;
  write_file(dir / "mapillary/config_v2.0.json",
             R"({"labels": [{"readable": "Bird"}, {"readable": "Ground Animal"}]})");
  write_file(dir / "mapillary/training/v2.0/labels/c.png", columns({1, 1, 1, 1, 1, 1}));
  const auto reader = sem_seg_training(dir.path(), "mapillary", {});
  EXPECT_EQ(reader->items()[0].image, "mapillary/training/images/c.jpg");
  EXPECT_EQ(forced(*reader, 0, {0, 0}).conversations[0].question, "ground animal");
  write_file(dir / "mapillary/training/v2.0/labels/c.png", columns({1, 2, 1, 1, 1, 1}));
  EXPECT_NE(problem_of(*reader, 0).find("class 2 of 2"), std::string::npos);
}

TEST(SemSeg, DrawsAtMostSoManyClasses) {
  const TempDir dir;
  write_file(dir / "ade20k/images/training/a.jpg", "");
  write_file(dir / "ade20k/annotations/training/a.png", columns({1, 2, 3, 4, 5, 6}));
  const auto reader = sem_seg_training(dir.path(), "ade20k", {.num_classes_per_sample = 2});
  std::vector<Choices> draws;
  for (std::int64_t d = 0; d < 30; ++d) draws.push_back(choices_of(0, "", "", d));
  const auto made = reader->make(0, kSize, draws);
  EXPECT_EQ(made.masks.size(), 6U);  // each once, however often it is asked for
  for (const auto& sample : made.samples) {
    ASSERT_EQ(sample.targets.size(), 2U);
    EXPECT_NE(sample.targets[0], sample.targets[1]);
  }
}

TEST(SemSeg, NamesLabelMapsThatAreBroken) {
  const TempDir dir;
  write_file(dir / "ade20k/images/training/a.jpg", "");
  const auto reader = sem_seg_training(dir.path(), "ade20k", {});
  EXPECT_NE(problem_of(*reader, 0).find("missing"), std::string::npos);
  const auto path = dir / "ade20k/annotations/training/a.png";
  write_file(path, columns({1, 1, 1, 1, 1, 1}).substr(0, 40));
  EXPECT_NE(problem_of(*reader, 0).find("a.png"), std::string::npos);
  write_file(path, image::encode_png_grey(std::vector<std::uint8_t>(4, 1), {2, 2}));
  EXPECT_NE(problem_of(*reader, 0).find("2 x 2"), std::string::npos);
  write_file(path, columns({200, 1, 1, 1, 1, 1}));
  EXPECT_NE(problem_of(*reader, 0).find("class 199 of 150"), std::string::npos);
  write_file(path, columns({0, 0, 255, 255, 0, 0}));
  EXPECT_EQ(problem_of(*reader, 0), "");  // nothing to ask for is no fault
}

const char* const kParts = R"json({
  "images": [{"id": 7, "file_name": "p.jpg", "height": 4, "width": 6},
             {"id": 8, "file_name": "empty.jpg", "height": 4, "width": 6}],
  "categories": [{"id": 1, "name": "cup_(drink):handle_(x)"}, {"id": 2, "name": "dog"}],
  "annotations": [
    {"id": 1, "image_id": 7, "category_id": 1, "segmentation": {"size": [4, 6], "counts": [0, 4, 20]}},
    {"id": 2, "image_id": 7, "category_id": 1, "segmentation": {"size": [4, 6], "counts": [20, 4]}},
    {"id": 2, "image_id": 7, "category_id": 2, "segmentation": []},
    {"id": 3, "image_id": 99, "category_id": 2, "segmentation": []},
    {"id": 4, "image_id": 7, "category_id": 99, "segmentation": []}]})json";

TEST(SemSeg, PartsAreNamedInTwoWaysAndMaskOneInstance) {
  const TempDir dir;
  write_file(dir / "vlpart/paco/annotations/paco_lvis_v1_train.json", kParts);
  const auto reader = sem_seg_training(dir.path(), "paco_lvis", {});
  ASSERT_EQ(reader->items().size(), 2U);
  EXPECT_EQ(reader->items()[0].image, "coco/p.jpg");
  EXPECT_EQ(reader->problems().size(), 3U);  // a repeated id, an image and a category that do not exist
  std::vector<image::Rle> masks;
  const auto sample = forced(*reader, 0, {1, 0, 0, 0, 1, 1}, &masks);
  EXPECT_EQ(sample.conversations[0].question, "cup handle");
  EXPECT_EQ(sample.conversations[1].question, "the handle of the cup");
  EXPECT_EQ(image::rle_bounds(masks.at(0)), (image::Rectangle{0, 0, 1, 4}));
  EXPECT_EQ(image::rle_bounds(masks.at(1)), (image::Rectangle{5, 0, 1, 4}));
  std::vector<Choices> draws{choices_of(0, "", "", 0)};
  EXPECT_TRUE(reader->make(1, kSize, draws).samples.empty());
}

TEST(SemSeg, PartUnionMasksTheWholeClass) {
  const TempDir dir;
  write_file(dir / "vlpart/pascal_part/train.json", kParts);
  const auto reader = sem_seg_training(dir.path(), "pascal_part", {.part_union = true});
  EXPECT_EQ(reader->items()[0].image, "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/p.jpg");
  std::vector<image::Rle> masks;
  forced(*reader, 0, {1, 0, 0, 0, 1, 1}, &masks);
  EXPECT_EQ(image::rle_area(masks.at(0)), 8);
}

TEST(SemSeg, RefusesSetsThatAreNotThere) {
  const TempDir dir;
  for (const char* set : {"ade20k", "cocostuff", "mapillary", "paco_lvis", "pascal_part", "partimagenet"}) {
    EXPECT_THROW(sem_seg_training(dir.path(), set, {}), RequestError) << set;
  }
}

}  // namespace
}  // namespace tessera::data
