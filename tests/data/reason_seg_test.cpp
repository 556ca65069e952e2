#include "tessera/data/reason_seg.hpp"

#include <gtest/gtest.h>

#include <set>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing_support::TempDir;
using testing_support::write_file;

const image::Size kSize{200, 300};

class ReasonSegTest : public ::testing::Test {
 protected:
  ReasonSegTest() { toy::write_small_set(dir_.path()); }

  std::unique_ptr<Reader> training(double explanatory = 0.1, std::int64_t most = 3) {
    return reason_seg_training(dir_.path(), "ReasonSeg|train",
                               {.num_classes_per_sample = most, .explanatory = explanatory});
  }
  static std::int64_t item_of(const Reader& reader, const std::string& name) {
    for (std::size_t i = 0; i < reader.items().size(); ++i) {
      if (reader.items()[i].name.ends_with("/" + name)) return static_cast<std::int64_t>(i);
    }
    throw std::runtime_error("no item " + name);
  }
  static Sample forced(const Reader& reader, const std::string& name, std::vector<std::int32_t> choices) {
    std::vector<Choices> draws{Choices(std::move(choices))};
    return reader.make(item_of(reader, name), kSize, draws).samples.at(0);
  }
  Problem refusal(const std::string& json) {
    write_file(dir_ / "reason_seg/ReasonSeg/train/train0.json", json);
    const auto reader = training(-1);
    std::vector<Choices> draws{choices_of(0, "", "", 0)};
    try {
      reader->make(item_of(*reader, "train0"), kSize, draws);
    } catch (const BrokenSample& broken) {
      return broken.problem();
    }
    return {};
  }
  TempDir dir_;
};

TEST_F(ReasonSegTest, ListsImagesByNameAndJsonWithoutImageToo) {
  write_file(dir_ / "reason_seg/ReasonSeg/train/orphan.json", "{}");
  const auto reader = training();
  EXPECT_EQ(reader->source(), "reason_seg/ReasonSeg/train");
  EXPECT_EQ(reader->family(), "reason_seg");
  ASSERT_EQ(reader->items().size(), 13U);
  EXPECT_EQ(reader->items()[0].name, "reason_seg/ReasonSeg/train/orphan");
  EXPECT_EQ(reader->items()[0].image, "reason_seg/ReasonSeg/train/orphan.jpg");
}

TEST_F(ReasonSegTest, ShortQuestionsAreLoweredAndLongOnesAreNot) {
  const auto reader = training(-1);
  const auto brief = forced(*reader, "train1", {0, 1, 3, 4});  // two texts in order: template, answer each
  ASSERT_EQ(brief.conversations.size(), 2U);
  EXPECT_EQ(brief.conversations[0].messages,
            (std::vector<std::string>{"<image>\nCan you segment the the thing 1 in this image?", "Sure, [SEG]."}));
  EXPECT_EQ(brief.conversations[0].question, "The Thing 1");
  EXPECT_EQ(brief.is_sentence, 0);
  EXPECT_EQ(brief.targets, (std::vector<std::int32_t>{0, 0}));
  const auto lengthy = forced(*reader, "train0", {1, 2});
  EXPECT_EQ(lengthy.conversations[0].messages,
            (std::vector<std::string>{"<image>\nThe Thing 0 Please output segmentation mask.", "Sure, it is [SEG]."}));
  EXPECT_EQ(lengthy.is_sentence, 1);
}

TEST_F(ReasonSegTest, TakesAtMostSoManyInstructionsWithoutRepeating) {
  const auto reader = training(-1);
  const auto item = item_of(*reader, "train4");  // five texts
  std::set<std::string> seen;
  for (std::int64_t d = 0; d < 40; ++d) {
    std::vector<Choices> draws{choices_of(1, "s", "i", d)};
    const auto sample = reader->make(item, kSize, draws).samples.at(0);
    ASSERT_EQ(sample.conversations.size(), 3U);
    std::set<std::string> own;
    for (const auto& conversation : sample.conversations) own.insert(conversation.question);
    EXPECT_EQ(own.size(), 3U);
    seen.insert(own.begin(), own.end());
  }
  EXPECT_EQ(seen.size(), 5U);
}

TEST_F(ReasonSegTest, ExplainsInWordsAloneWithoutAMask) {
  const auto reader = training();
  const auto sample = forced(*reader, "train2", {2, 0, 0, 1});  // three texts, then "text alone"
  ASSERT_EQ(sample.conversations.size(), 3U);
  EXPECT_EQ(sample.conversations[0].messages,
            (std::vector<std::string>{"<image>\nanother name 1", "Because of this."}));
  EXPECT_TRUE(sample.targets.empty());
}

TEST_F(ReasonSegTest, ExplainsAfterTheMask) {
  const auto reader = training();
  // Order of three texts (0, then 0 of the rest, then the last), not text alone, mask and text; answer, wording each.
  const auto sample = forced(*reader, "train2", {0, 0, 0, 0, 1, 4, 2, 0, 0, 1, 1});
  EXPECT_EQ(sample.conversations[0].messages,
            (std::vector<std::string>{"<image>\nThe Thing 2 Please output segmentation mask and give some explanation.",
                                      "[SEG]. Because of this."}));
  EXPECT_EQ(sample.conversations[1].messages[1], "It is [SEG]. Because of this.");
  EXPECT_EQ(sample.targets.size(), 3U);
}

TEST_F(ReasonSegTest, DrawsTheThreeKindsOfExplanationByTheirProbabilities) {
  const auto reader = training(0.1);
  const auto item = item_of(*reader, "train5");  // one text
  std::vector<Choices> draws;
  constexpr int kDraws = 4000;
  for (std::int64_t d = 0; d < kDraws; ++d) draws.push_back(choices_of(9, "s", "i", d));
  int alone = 0;
  int both = 0;
  for (const auto& sample : reader->make(item, kSize, draws).samples) {
    const auto& answer = sample.conversations.at(0).messages.at(1);
    const bool explains = answer.find("Because") != std::string::npos;
    alone += explains && sample.targets.empty();
    both += explains && !sample.targets.empty();
  }
  EXPECT_NEAR(alone, 0.10 * kDraws, 5 * 19);
  EXPECT_NEAR(both, 0.45 * kDraws, 5 * 31);
}

TEST_F(ReasonSegTest, IgnoredPixelsAreNoTargetAndKeptApart) {
  const auto reader = training(-1);
  std::vector<Choices> draws{choices_of(0, "", "", 0), choices_of(0, "", "", 1)};
  const auto made = reader->make(item_of(*reader, "train1"), kSize, draws);
  ASSERT_EQ(made.masks.size(), 2U);
  ASSERT_EQ(made.ignore_mask, 1);
  EXPECT_EQ(image::rle_area(made.masks[1]), 51 * 51);  // outline included; the flag draws nothing
  const image::Rle both[] = {made.masks[0], made.masks[1]};
  EXPECT_EQ(image::rle_area(image::rle_merge(both, true)), 0);
  EXPECT_EQ(made.samples.size(), 2U);
}

TEST_F(ReasonSegTest, ValidationAsksTheFirstInstructionAlone) {
  const auto reader = reason_seg_validation(dir_.path(), "ReasonSeg", "val", {});
  EXPECT_EQ(reader->source(), "reason_seg/ReasonSeg/val");
  ASSERT_EQ(reader->items().size(), 3U);
  const auto brief = forced(*reader, "val0", {});
  ASSERT_EQ(brief.conversations.size(), 1U);
  EXPECT_EQ(brief.conversations[0].messages,
            (std::vector<std::string>{"<image>\n What is first words in this image? Please output segmentation mask.",
                                      "[SEG]."}));
  EXPECT_EQ(forced(*reader, "val1", {}).conversations[0].messages[0],
            "<image>\n What would you sit on? Please output segmentation mask.");
  std::vector<Choices> draws{Choices(std::vector<std::int32_t>{})};
  EXPECT_EQ(image::rle_area(reader->make(item_of(*reader, "val2"), kSize, draws).masks.at(0)), 0);
}

TEST_F(ReasonSegTest, SplitsAreJoinedByUnderscoresUnlessAFolderHasThatName) {
  toy::write_reason_seg(dir_.path(), "other_names", {{"a", 0, {"t"}}});
  EXPECT_EQ(reason_seg_training(dir_.path(), "ReasonSeg|train_val", {})->items().size(), 15U);
  EXPECT_EQ(reason_seg_training(dir_.path(), "ReasonSeg|other_names", {})->items().size(), 1U);
  EXPECT_THROW(reason_seg_training(dir_.path(), "ReasonSeg|train_test", {}), RequestError);
  for (const char* bad : {"ReasonSeg", "|train", "ReasonSeg|", "a|b|c"}) {
    EXPECT_THROW(reason_seg_training(dir_.path(), bad, {}), RequestError) << bad;
  }
}

TEST_F(ReasonSegTest, ExplanationsMustBeThereUnlessSwitchedOff) {
  fs::remove_all(dir_ / "reason_seg/ReasonSeg/explanatory");
  EXPECT_THROW(training(0.1), RequestError);
  EXPECT_NO_THROW(training(-1));
}

TEST_F(ReasonSegTest, ReadsCp1252WhereTheFileIsNoUtf8) {
  write_file(dir_ / "reason_seg/ReasonSeg/train/train0.json",
             "{\"text\": [\"the dog\x92s nose \xe9\"], \"is_sentence\": false, \"shapes\": []}");
  const auto reader = training(-1);
  EXPECT_EQ(forced(*reader, "train0", {0, 0}).conversations[0].question, "the dog\u2019s nose \u00e9");
}

TEST_F(ReasonSegTest, NamesFileAndPlaceOfWhatIsBroken) {
  const auto expect_problem = [this](const std::string& json, const std::string& where, const std::string& why) {
    const auto problem = refusal(json);
    EXPECT_TRUE(problem.file.ends_with("train0.json")) << json;
    EXPECT_NE(problem.where.find(where), std::string::npos) << json << " -> " << problem.text();
    EXPECT_NE(problem.why.find(why), std::string::npos) << json << " -> " << problem.text();
  };
  const auto with_points = [](const std::string& points) {
    return R"({"text": ["a"], "is_sentence": false, "shapes": [{"label": "target", "points": )" + points + "}]}";
  };
  EXPECT_EQ(refusal(with_points("[[0,0],[300,0],[300,200]]")).text(), Problem{}.text());
  expect_problem("", "", "empty");
  expect_problem("{\n\"text\": [\"a\",]}", "line 2", "not JSON");
  expect_problem(R"({"text": ["a"], "is_sentence": false})", "", "shapes");
  expect_problem(R"({"text": "a", "is_sentence": false, "shapes": []})", "text", "list");
  expect_problem(R"({"text": [], "is_sentence": false, "shapes": []})", "text", "no instruction");
  expect_problem(R"({"text": ["a", 3], "is_sentence": false, "shapes": []})", "text[1]", "text");
  expect_problem(R"({"text": ["a"], "is_sentence": "no", "shapes": []})", "is_sentence", "true or false");
  expect_problem(with_points("[[0,0],[9,9]]"), "shapes[0].points", "2 points");
  expect_problem(with_points("[[0,0],[9,9],[9]]"), "shapes[0].points[2]", "x and y");
  expect_problem(with_points(R"([[0,0],[9,"9"],[9,9]])"), "shapes[0].points[1]", "number");
  expect_problem(with_points("[[0,0],[303,10],[9,9]]"), "shapes[0].points[1]", "outside the image of 300 x 200");
  expect_problem(with_points("[[900,900],[990,900],[990,990]]"), "shapes[0].points[0]", "outside");
  fs::remove(dir_ / "reason_seg/ReasonSeg/train/train0.json");
  const auto reader = training(-1);
  std::vector<Choices> draws{choices_of(0, "", "", 0)};
  EXPECT_THROW(reader->make(item_of(*reader, "train0"), kSize, draws), BrokenSample);
}

}  // namespace
}  // namespace tessera::data
