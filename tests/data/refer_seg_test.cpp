#include "tessera/data/refer_seg.hpp"

#include <gtest/gtest.h>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

constexpr image::Size kSize{4, 6};

const char* const kInstances = R"({
  "images": [{"id": 3, "file_name": "x.jpg", "height": 4, "width": 6}],
  "categories": [{"id": 1, "name": "cat"}],
  "annotations": [
    {"id": 11, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4], [1, 0, 3, 0, 3, 4, 1, 4]]},
    {"id": 12, "image_id": 3, "category_id": 1, "segmentation": [{"size": [4, 6], "counts": [20, 4]}]},
    {"id": 13, "image_id": 3, "category_id": 1, "segmentation": []},
    {"id": 14, "image_id": 3, "category_id": 1, "segmentation": [{"size": [4, 6], "counts": [20, 40]}]}]})";

// pickle.dumps(refs, protocol=2) of two references about image 3: annotation 11 with " The Left Cat" and "grey cat" in
// split train, annotation 12 with "dog" in split testA.
const std::string kPickle(
    "\200\002\135\161\000\050\175\161\001\050\130\006\000\000\000\162\145\146\137\151\144\161\002\113\005\130\006\000"
    "\000\000\141\156\156\137\151\144\161\003\113\013\130\013\000\000\000\143\141\164\145\147\157\162\171\137\151\144"
    "\161\004\113\001"
    "\130\010\000\000\000\151\155\141\147\145\137\151\144\161\005\113\003\130\011\000\000\000\146\151\154\145\137\156"
    "\141\155\145\161\006\130\007\000\000\000\170\137\061\056\152\160\147\161\007\130\005\000\000\000\163\160\154\151"
    "\164\161\010\130"
    "\005\000\000\000\164\162\141\151\156\161\011\130\011\000\000\000\163\145\156\164\145\156\143\145\163\161\012\135"
    "\161\013\050\175\161\014\050\130\004\000\000\000\163\145\156\164\161\015\130\015\000\000\000\040\124\150\145\040"
    "\114\145\146\164"
    "\040\103\141\164\161\016\130\003\000\000\000\162\141\167\161\017\130\001\000\000\000\162\161\020\130\006\000\000"
    "\000\164\157\153\145\156\163\161\021\135\161\022\130\001\000\000\000\141\161\023\141\130\007\000\000\000\163\145"
    "\156\164\137\151"
    "\144\161\024\113\001\165\175\161\025\050\150\015\130\010\000\000\000\147\162\145\171\040\143\141\164\161\026\150"
    "\017\150\020\150\021\135\161\027\150\023\141\150\024\113\002\165\145\130\010\000\000\000\163\145\156\164\137\151"
    "\144\163\161\030"
    "\135\161\031\050\113\001\113\002\145\165\175\161\032\050\150\002\113\006\150\003\113\014\150\004\113\001\150\005"
    "\113\003\150\006\130\007\000\000\000\170\137\062\056\152\160\147\161\033\150\010\130\005\000\000\000\164\145\163"
    "\164\101\161\034"
    "\150\012\135\161\035\175\161\036\050\150\015\130\003\000\000\000\144\157\147\161\037\150\017\150\020\150\021\135"
    "\161\040\150\023\141\150\024\113\003\165\141\150\030\135\161\041\113\003\141\165\145\056",
    410);

class ReferSegTest : public ::testing::Test {
 protected:
  ReferSegTest() {
    write_file(dir_ / "refer_seg/refcoco/instances.json", kInstances);
    write_file(dir_ / "refer_seg/refcoco/refs(unc).p", kPickle);
  }
  void write_json(const std::string& refs) {
    std::filesystem::remove(dir_ / "refer_seg/refcoco/refs(unc).p");
    write_file(dir_ / "refer_seg/refcoco/refs(unc).json", refs);
  }
  static ItemSamples make(const Reader& reader, std::vector<std::int32_t> choices, image::Size size = kSize) {
    std::vector<Choices> draws{Choices(std::move(choices))};
    return reader.make(0, size, draws);
  }
  TempDir dir_;
};

TEST_F(ReferSegTest, AsksForSentencesOfTheTrainingSplitInLowerCase) {
  const auto reader = refer_seg_training(dir_.path(), "refcoco", 3);
  ASSERT_EQ(reader->items().size(), 1U);
  EXPECT_EQ(reader->items()[0].image, "refer_seg/images/mscoco/images/train2014/x.jpg");
  EXPECT_EQ(reader->source(), "refer_seg/refcoco/train");
  EXPECT_TRUE(reader->problems().empty());
  const auto made = make(*reader, {0, 1, 3, 4});
  ASSERT_EQ(made.samples[0].conversations.size(), 2U);
  EXPECT_EQ(made.samples[0].conversations[0].messages,
            (std::vector<std::string>{"<image>\nCan you segment the the left cat in this image?", "Sure, [SEG]."}));
  EXPECT_EQ(made.samples[0].conversations[1].question, "grey cat");
  ASSERT_EQ(made.masks.size(), 1U);  // both sentences name the same object
  EXPECT_EQ(made.samples[0].targets, (std::vector<std::int32_t>{0, 0}));
}

TEST_F(ReferSegTest, OverlappingPolygonsAreOneMaskOfZerosAndOnes) {
  const auto made = make(*refer_seg_training(dir_.path(), "refcoco", 3), {0, 0, 0, 0});
  EXPECT_EQ(image::rle_area(made.masks[0]), 3 * kSize.height);
}

TEST_F(ReferSegTest, ValidationHoldsAllSentencesOfTheSplit) {
  const auto reader = refer_seg_validation(dir_.path(), "refcoco", "unc", "testA");
  const auto made = make(*reader, {});
  ASSERT_EQ(made.samples[0].conversations.size(), 1U);
  EXPECT_EQ(
      made.samples[0].conversations[0].messages,
      (std::vector<std::string>{"<image>\n What is dog in this image? Please output segmentation mask.", "[SEG]."}));
  EXPECT_EQ(image::rle_bounds(made.masks[0]), (image::Rectangle{5, 0, 1, 4}));
}

TEST_F(ReferSegTest, SplitsMatchAsTheReferToolsMatchThem) {
  EXPECT_TRUE(in_split("testAB", "testA"));
  EXPECT_TRUE(in_split("testA", "test"));
  EXPECT_FALSE(in_split("testB", "testA"));
  EXPECT_FALSE(in_split("training", "train"));
}

TEST_F(ReferSegTest, ReadsTheSameListAsJsonAndGrefcocosManyTargets) {
  write_json(R"([
    {"image_id": 3, "ann_id": [11, 12], "split": "train", "sentences": [{"sent": "both"}]},
    {"image_id": 3, "ann_id": [-1], "split": "train", "sentences": [{"sent": "the unicorn"}]},
    {"image_id": 3, "ann_id": 13, "split": "train", "sentences": [{"sent": "not drawn"}]}])");
  const auto made = make(*refer_seg_training(dir_.path(), "refcoco", 5), {0, 0, 0, 0, 0, 0});
  ASSERT_EQ(made.masks.size(), 3U);
  EXPECT_EQ(image::rle_area(made.masks[0]), 4 * kSize.height);
  EXPECT_EQ(image::rle_area(made.masks[1]), 0);
  EXPECT_EQ(image::rle_area(made.masks[2]), 0);
}

TEST_F(ReferSegTest, ReportsReferencesToWhatIsNotThere) {
  write_json(R"([
    {"image_id": 99, "ann_id": 11, "split": "train", "sentences": [{"sent": "a"}]},
    {"image_id": 3, "ann_id": 11, "split": "train", "sentences": []},
    {"image_id": "3", "ann_id": 11, "split": "train", "sentences": [{"sent": "a"}]},
    {"image_id": 3, "ann_id": 77, "split": "train", "sentences": [{"sent": "a"}]}])");
  const auto reader = refer_seg_training(dir_.path(), "refcoco", 3);
  EXPECT_EQ(reader->problems().size(), 3U);
  ASSERT_EQ(reader->items().size(), 1U);
  try {
    make(*reader, {0, 0});
    ADD_FAILURE();
  } catch (const BrokenSample& broken) {
    EXPECT_NE(std::string(broken.what()).find("annotation 77"), std::string::npos) << broken.what();
  }
}

TEST_F(ReferSegTest, ReportsMasksThatDoNotFitTheirImage) {
  EXPECT_THROW(make(*refer_seg_training(dir_.path(), "refcoco", 3), {0, 0, 0, 0}, {6, 4}), BrokenSample);
  write_json(R"([{"image_id": 3, "ann_id": 14, "split": "train", "sentences": [{"sent": "overruns"}]}])");
  EXPECT_THROW(make(*refer_seg_training(dir_.path(), "refcoco", 3), {0, 0}), BrokenSample);
}

TEST_F(ReferSegTest, RefusesUnknownSetsAndMissingFiles) {
  EXPECT_THROW(refer_seg_training(dir_.path(), "refcoco2", 3), RequestError);
  EXPECT_THROW(refer_seg_training(dir_.path(), "refclef", 3), RequestError);
  write_file(dir_ / "refer_seg/refcoco/refs(unc).p", "not a pickle");
  EXPECT_THROW(refer_seg_training(dir_.path(), "refcoco", 3), RequestError);
}

}  // namespace
}  // namespace tessera::data
