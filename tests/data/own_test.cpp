#include "tessera/data/own.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/image/write.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

class OwnData : public ::testing::Test {
 protected:
  OwnData() { fs::create_directories(dir_ / "masks"); }
  void write(const std::string& file, const std::string& text) { write_file(dir_ / file, text); }
  /// A mask of 6 x 4 pixels with two values.
  void write_mask() {
    std::vector<std::uint8_t> values(24, 0);
    values[0] = values[1] = 1;
    values[7] = 3;
    write_file(dir_ / "masks/a.png", image::encode_png_grey(values, {4, 6}));
  }
  ItemSamples make(const Reader& reader, std::int64_t item, std::uint64_t seed = 1) {
    std::vector<Choices> draws{choices_of(seed, "own", "x", 0)};
    return reader.make(item, {4, 6}, draws);
  }
  TempDir dir_;
};

TEST_F(OwnData, TakesMasksInEveryForm) {
  write_mask();
  write("train.json", R"([{"image": "a.jpg", "questions": [
    {"label": "Cup", "mask": "masks/a.png"},
    {"label": "dot", "mask": {"png": "masks/a.png", "value": 3}},
    {"question": "Where would tea be?", "mask": {"rle": {"size": [4, 6], "counts": [4, 4, 16]}}},
    {"question": "And now?", "answer": "Here: [SEG] and [SEG].",
     "masks": [{"polygons": [[0, 0, 3, 0, 3, 3, 0, 3]]}, {"rle": {"size": [4, 6], "counts": "44`0"}}]},
    {"conversation": ["What is it?", "A cup.", "Sure?", "Yes."]}],
    "ignore": "masks/a.png"}])");
  const auto reader = own_training(dir_.path(), 10);
  ASSERT_TRUE(reader->problems().empty()) << reader->problems()[0].text();
  const auto made = make(*reader, 0);
  ASSERT_EQ(made.masks.size(), 6U);
  EXPECT_EQ(image::rle_area(made.masks[0]), 3);
  EXPECT_EQ(image::rle_area(made.masks[1]), 1);
  EXPECT_EQ(image::rle_area(made.masks[2]), 4);
  EXPECT_EQ(image::rle_area(made.masks[3]), 9);
  EXPECT_EQ(made.ignore_mask, 5);
  ASSERT_EQ(made.samples.size(), 1U);
  const auto& sample = made.samples[0];
  EXPECT_EQ(sample.targets, (std::vector<std::int32_t>{0, 1, 2, 3, 4}));
  ASSERT_EQ(sample.conversations.size(), 5U);
  EXPECT_NE(sample.conversations[0].messages[0].find("cup"), std::string::npos);
  EXPECT_NE(sample.conversations[2].messages[0].find("<image>\nWhere would tea be? Please"), std::string::npos);
  EXPECT_NE(sample.conversations[2].messages[1].find("[SEG]"), std::string::npos);
  EXPECT_EQ(sample.conversations[3].messages,
            (std::vector<std::string>{"<image>\nAnd now?", "Here: [SEG] and [SEG]."}));
  EXPECT_EQ(sample.conversations[4].messages.size(), 4U);
}

TEST_F(OwnData, DrawsSomeOfTheQuestionsAndValidatesOnAllWithMasks) {
  write_mask();
  json questions = json::array();
  for (int i = 0; i < 6; ++i) questions.push_back({{"label", "thing " + std::to_string(i)}, {"mask", "masks/a.png"}});
  questions.push_back({{"question", "Why?"}, {"answer", "So."}});
  const auto text = json::array({{{"image", "a.jpg"}, {"questions", questions}}}).dump();
  write("train.json", text);
  write("val.json", text);
  const auto reader = own_training(dir_.path(), 3);
  const auto first = make(*reader, 0).samples[0];
  EXPECT_EQ(first.conversations.size(), 3U);
  bool differs = false;
  for (std::uint64_t seed = 2; seed < 6; ++seed) {
    differs = differs || make(*reader, 0, seed).samples[0].conversations[0].question != first.conversations[0].question;
  }
  EXPECT_TRUE(differs);
  const auto validation = own_validation(dir_.path());
  const auto all = make(*validation, 0).samples[0];
  ASSERT_EQ(all.conversations.size(), 6U);
  EXPECT_EQ(all.targets.size(), 6U);
  EXPECT_EQ(all.conversations[0].messages[1], "[SEG].");
}

/// A record with one thing wrong with it, and what must be said.
struct Wrong {
  std::string record, why;
};

TEST_F(OwnData, ReportsRecordsThatAreWrong) {
  const std::vector<Wrong> wrong = {
      {"3", "expected an object"},
      {R"({"questions": []})", "no field 'image'"},
      {R"({"image": "", "questions": [{"label": "a", "mask": "m.png"}]})", "an empty text"},
      {R"({"image": "a.jpg", "questions": []})", "no question about the image"},
      {R"({"image": "a.jpg", "question": []})", "unknown field 'question'"},
      {R"({"image": "a.jpg", "questions": [{"label": "a"}]})", "0 masks for an answer that is to be drawn"},
      {R"({"image": "a.jpg", "questions": [{"label": "a", "question": "b", "mask": "m.png"}]})", "one of label"},
      {R"({"image": "a.jpg", "questions": [{"conversation": ["a"]}]})", "questions and answers in turn"},
      {R"({"image": "a.jpg", "questions": [{"label": "a", "mask": {}}]})", "one of png, rle, polygons"},
      {R"({"image": "a.jpg", "questions": [{"label": "a", "mask": {"png": "m", "value": 256}}]})", "from 0 to 255"},
      {R"({"image": "a.jpg", "questions": [{"label": "a", "mask": {"polygons": {}}}]})", "no field 'size'"},
      {R"({"image": "a.jpg", "questions": [{"label": "a", "mask": {"rle": [[1, 2]]}}]})", "expected {size, counts}"},
      {R"({"image": "a.jpg", "questions": [{"label": 4, "mask": "m.png"}]})", "expected a text"},
  };
  json list = json::array();
  for (const auto& one : wrong) list.push_back(json::parse(one.record));
  write("train.json", list.dump());
  const auto reader = own_training(dir_.path(), 3);
  EXPECT_TRUE(reader->items().empty());
  ASSERT_EQ(reader->problems().size(), wrong.size());
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    EXPECT_NE(reader->problems()[i].text().find(wrong[i].why), std::string::npos) << reader->problems()[i].text();
  }
  EXPECT_THROW(own_validation(dir_.path()), RequestError);
}

TEST_F(OwnData, ReportsMasksThatCannotBeDrawn) {
  write_mask();
  const std::vector<Wrong> wrong = {
      {R"("masks/none.png")", "missing"},
      {R"("../a.png")", "leaves the data set folder"},
      {R"({"rle": {"size": [5, 6], "counts": [30]}})", "for an image of 6 x 4"},
      {R"({"rle": {"size": [4, 6], "counts": [4, 100]}})", "rle"},
      {R"({"polygons": [[1, 1, 2, 2]]})", "three points"},
  };
  json list = json::array();
  for (const auto& one : wrong) {
    json question = {{"label", "a"}, {"mask", json::parse(one.record)}};
    list.push_back({{"image", "a.jpg"}, {"questions", json::array({std::move(question)})}});
  }
  write("train.json", list.dump());
  const auto reader = own_training(dir_.path(), 3);
  ASSERT_EQ(reader->items().size(), wrong.size());
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    try {
      make(*reader, static_cast<std::int64_t>(i));
      ADD_FAILURE() << wrong[i].record;
    } catch (const BrokenSample& broken) {
      EXPECT_NE(broken.problem().text().find(wrong[i].why), std::string::npos) << broken.problem().text();
    }
  }
}

TEST_F(OwnData, IsPreparedForTrainingAndValidation) {
  fs::create_directories(dir_ / "photos");
  fs::copy_file(toy::photograph(0), dir_ / "photos/a.jpg");
  const std::string records = R"([{"image": "photos/a.jpg", "questions": [
    {"label": "thing", "mask": {"polygons": [[10, 10, 90, 10, 90, 90, 10, 90]]}},
    {"question": "Why?", "answer": "Because."}]}])";
  write("train.json", records);
  write("val.json", records);
  PrepareConfig config;
  config.own_data = dir_.path().string();
  config.dataset = "own";
  config.val_dataset = "own|" + dir_.path().string();
  config.version = toy::model_folder().string();
  config.output_dir = (dir_ / "shards").string();
  config.draws = 2;
  config.quiet = true;
  const auto outcome = toy::prepare(config);
  EXPECT_TRUE(outcome.manifest.skipped.empty());
  const auto train = Shards::open(config.output_dir, "train", {});
  ASSERT_EQ(train.size(), 2);
  EXPECT_EQ(train.read(0).targets.size(), 1U);
  EXPECT_EQ(train.read(0).conversations.size(), 2U);
  EXPECT_EQ(train.family_of(0), "own");
  EXPECT_EQ(Shards::open(config.output_dir, "val", {}).size(), 1);
}

}  // namespace
}  // namespace tessera::data
