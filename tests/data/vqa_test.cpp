#include "tessera/data/vqa.hpp"

#include <gtest/gtest.h>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

TEST(Vqa, KeepsTheDialogueWithTheImageInFront) {
  const TempDir dir;
  write_file(dir / "llava_dataset/talk.json", R"([
    {"image": "a.jpg", "conversations": [
      {"from": "gpt", "value": "Hello."},
      {"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "A cat."},
      {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]}])");
  const auto reader = vqa_training(dir.path(), "talk");
  ASSERT_EQ(reader->items().size(), 1U);
  EXPECT_EQ(reader->items()[0].image, "coco/train2017/a.jpg");
  EXPECT_EQ(reader->source(), "vqa/talk");
  EXPECT_EQ(reader->family(), "vqa");
  std::vector<Choices> draws(2, Choices(std::vector<std::int32_t>{}));
  const auto made = reader->make(0, {4, 4}, draws);
  EXPECT_TRUE(made.masks.empty());
  ASSERT_EQ(made.samples.size(), 2U);
  ASSERT_EQ(made.samples[0].conversations.size(), 1U);
  EXPECT_EQ(made.samples[0].conversations[0].messages,
            (std::vector<std::string>{"<image>\nWhat is this?", "A cat.", "Sure?", "Yes."}));
  EXPECT_TRUE(made.samples[0].targets.empty());
}

TEST(Vqa, ReportsRecordsThatBreakTheFormat) {
  const TempDir dir;
  write_file(dir / "llava_dataset/talk.json", R"([
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "a"}]},
    {"image": "a.jpg", "conversations": [{"from": "user", "value": "q"}]},
    {"image": "a.jpg", "conversations": []},
    7,
    {"image": "b.jpg", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])");
  const auto reader = vqa_training(dir.path(), "talk");
  EXPECT_EQ(reader->items().size(), 1U);
  ASSERT_EQ(reader->problems().size(), 5U);
  EXPECT_EQ(reader->problems()[1].where, "[1].conversations[1]");
}

TEST(Vqa, RefusesAMissingFileAndOneThatDoesNotParse) {
  const TempDir dir;
  EXPECT_THROW(vqa_training(dir.path(), "talk"), RequestError);
  write_file(dir / "llava_dataset/talk.json", "[{]");
  EXPECT_THROW(vqa_training(dir.path(), "talk"), RequestError);
  write_file(dir / "llava_dataset/talk.json", "{}");
  EXPECT_THROW(vqa_training(dir.path(), "talk"), RequestError);
}

}  // namespace
}  // namespace tessera::data
