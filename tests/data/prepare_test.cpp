#include "tessera/data/prepare.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/data/shard_file.hpp"
#include "tessera/data/shards.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() {
    toy::write_small_set(dir_ / "data");
    config_ = toy::small_config(dir_ / "data", dir_ / "out");
    config_.shard_mib = 1;
  }
  fs::path train(const std::string& file) const { return dir_ / "data/reason_seg/ReasonSeg/train" / file; }
  /// What a run that must fail says.
  std::string refusal() {
    try {
      toy::prepare(config_);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  }
  TempDir dir_;
  PrepareConfig config_;
};

TEST_F(PrepareTest, CountsWhatItWrote) {
  const auto outcome = toy::prepare(config_);
  const auto& counts = outcome.manifest.counts.at("train: reason_seg/ReasonSeg/train");
  EXPECT_EQ(counts.items, 12);
  EXPECT_EQ(counts.samples, 36);
  EXPECT_EQ(counts.skipped, 0);
  EXPECT_EQ(outcome.manifest.counts.at("val: reason_seg/ReasonSeg/val").samples, 3);
  const auto read = read_manifest(dir_ / "out/manifest.json");
  EXPECT_EQ(read.counts.at("train: reason_seg/ReasonSeg/train").tokens, counts.tokens);
  EXPECT_EQ(read.shards.size(), outcome.manifest.shards.size());
  std::int64_t images = 0;
  for (const auto& shard : read.shards) {
    EXPECT_EQ(static_cast<std::int64_t>(fs::file_size(dir_ / ("out/" + shard.name))), shard.bytes);
    images += shard.images;
    EXPECT_TRUE(ShardFile(dir_ / ("out/" + shard.name)).verify().empty());
  }
  EXPECT_EQ(images, 15);  // each once, however many samples use it
}

TEST_F(PrepareTest, WritesConversationsAsTheTemplateAndTheTokenizerDo) {
  toy::prepare(config_);
  const auto shards = Shards::open((dir_ / "out").string(), "val", {});
  const auto sample = shards.read(0);
  ASSERT_EQ(sample.conversations.size(), 1U);
  const auto& conversation = sample.conversations[0];
  EXPECT_EQ(
      conversation.text,
      "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
      "and polite answers to the human's questions. USER: <image>\n What is first words in this image? Please output "
      "segmentation mask. ASSISTANT: [SEG].</s>");
  const auto& header = shards.header();
  const auto& ids = conversation.ids;
  EXPECT_EQ(ids.front(), header.bos_id);
  EXPECT_EQ(ids.back(), header.eos_id);
  const auto image = std::find(ids.begin(), ids.end(), -200);
  ASSERT_NE(image, ids.end());
  EXPECT_EQ(*(image - 1), header.im_start_id);
  EXPECT_EQ(*(image + 1), header.im_end_id);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), header.seg_token_id), 1);
  const auto first =
      std::find_if(conversation.labels.begin(), conversation.labels.end(), [](auto label) { return label != -100; });
  EXPECT_EQ(*first, header.seg_token_id);  // the answer, and it alone, is learned
  EXPECT_EQ(conversation.labels.back(), header.eos_id);
}

TEST_F(PrepareTest, DrawsDifferAndDependOnTheSeed) {
  toy::prepare(config_);
  const auto texts = [this](const std::string& folder) {
    std::vector<std::string> all;
    const auto shards = Shards::open((dir_ / folder).string(), "train", {});
    for (std::int64_t i = 0; i < shards.size(); ++i) all.push_back(shards.read(i).conversations[0].text);
    return all;
  };
  const auto first = texts("out");
  int equal = 0;
  for (std::size_t i = 0; i + 1 < first.size(); i += 3) equal += first[i] == first[i + 1];
  EXPECT_LT(equal, 6);
  config_.seed = 43;
  config_.output_dir = (dir_ / "other").string();
  toy::prepare(config_);
  EXPECT_NE(texts("other"), first);
}

TEST_F(PrepareTest, AStoppedRunEndsWithTheSameBytes) {
  const auto outcome = toy::prepare(config_);
  const auto whole = toy::files_of(dir_ / "out");
  // As if it had been killed: one shard is missing, one was cut short under a partial name, no manifest says
  // "complete".
  fs::remove(dir_ / ("out/" + outcome.manifest.shards[1].name));
  auto unfinished = outcome.manifest;
  unfinished.complete = false;
  unfinished.shards.clear();
  write_manifest(dir_ / "out/manifest.json", unfinished);
  EXPECT_THROW(Shards::open((dir_ / "out").string(), "train", {}), RequestError);
  const auto again = toy::prepare(config_);
  EXPECT_EQ(again.shards_kept, static_cast<std::int64_t>(outcome.manifest.shards.size()) - 1);
  const auto found = toy::files_of(dir_ / "out");
  for (const auto& [name, bytes] : whole) EXPECT_TRUE(found.at(name) == bytes) << name;
  EXPECT_EQ(found.size(), whole.size());
}

TEST_F(PrepareTest, AKilledRunEndsWithTheSameBytes) {
  auto whole = config_;
  whole.output_dir = (dir_ / "whole").string();
  const auto name = toy::prepare(whole).manifest.shards.back().name;
  config_.workers = 1;
  const pid_t child = fork();
  if (child == 0) {
    toy::prepare(config_);
    _exit(0);
  }
  const auto shard_there = [&] {
    const auto files = fs::exists(dir_ / "out") ? list_files(dir_ / "out", {".h5"}) : std::vector<fs::path>();
    return !files.empty();
  };
  while (!shard_there() && waitpid(child, nullptr, WNOHANG) == 0) {
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  write_file(dir_ / ("out/." + name + ".partial-0"), "half");  // as one that was being written
  toy::prepare(config_);
  const auto expected = toy::files_of(dir_ / "whole");
  const auto found = toy::files_of(dir_ / "out");
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [file, bytes] : expected) {
    ASSERT_TRUE(found.contains(file)) << file;
    EXPECT_TRUE(!file.ends_with(".h5") || found.at(file) == bytes) << file;
  }
}

TEST_F(PrepareTest, MakesAgainWhatAnEditedAnnotationDecides) {
  const auto first = toy::prepare(config_);
  const auto path = train("train10.json");
  auto text = read_file(path);
  text.replace(text.find("The Thing 10"), 12, "Something 10");  // as many bytes
  write_file(path, text);
  const auto second = toy::prepare(config_);
  EXPECT_EQ(second.shards_kept, static_cast<std::int64_t>(first.manifest.shards.size()) - 1);
  const auto shards = Shards::open(config_.output_dir, "train", {});
  bool found = false;
  for (std::int64_t row = 0; row < shards.size(); ++row) {
    for (const auto& conversation : shards.read(row).conversations) {
      found = found || conversation.text.find("something 10") != std::string::npos;
      EXPECT_EQ(conversation.text.find("the thing 10"), std::string::npos);
    }
  }
  EXPECT_TRUE(found);
}

TEST_F(PrepareTest, MakesADamagedShardAgain) {
  const auto outcome = toy::prepare(config_);
  const auto path = dir_ / ("out/" + outcome.manifest.shards[0].name);
  const auto whole = read_file(path);
  write_file(path, whole.substr(0, whole.size() / 2));
  EXPECT_EQ(toy::prepare(config_).shards_kept, static_cast<std::int64_t>(outcome.manifest.shards.size()) - 1);
  EXPECT_TRUE(read_file(path) == whole);
}

TEST_F(PrepareTest, RefusesAFolderOfAnotherPreparation) {
  toy::prepare(config_);
  config_.draws = 2;
  EXPECT_NE(refusal().find("another preparation"), std::string::npos);
  config_.draws = 3;
  write_file(dir_ / "out/mine.h5", "x");
  EXPECT_NE(refusal().find("mine.h5"), std::string::npos);
}

TEST_F(PrepareTest, CheckReadsEverythingAndWritesNothing) {
  write_file(train("train3.json"), "{");
  config_.check = true;
  const auto outcome = toy::prepare(config_);
  EXPECT_EQ(outcome.manifest.skipped.size(), 1U);
  EXPECT_EQ(outcome.manifest.counts.at("train: reason_seg/ReasonSeg/train").items, 11);
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

/// One way to break a data set, and what the report must name.
struct Damage {
  std::string name;
  std::function<void(const fs::path& train)> harm;
  std::string file, why;
};

class PrepareDamage : public PrepareTest, public ::testing::WithParamInterface<Damage> {};

TEST_P(PrepareDamage, IsReportedAndSkippedOrUnderStrictFatal) {
  GetParam().harm(train(""));
  auto config = config_;
  const auto outcome = toy::prepare(config);
  ASSERT_EQ(outcome.manifest.skipped.size(), 1U);
  const auto text = outcome.manifest.skipped[0].problem.text();
  EXPECT_NE(text.find(GetParam().file), std::string::npos) << text;
  EXPECT_NE(text.find(GetParam().why), std::string::npos) << text;
  EXPECT_EQ(outcome.manifest.counts.at("train: reason_seg/ReasonSeg/train").skipped, 1);
  EXPECT_EQ(read_manifest(dir_ / "out/manifest.json").skipped.at(0).problem.text(), text);
  EXPECT_NO_THROW(Shards::open((dir_ / "out").string(), "train", {}));

  config_.strict = true;
  config_.output_dir = (dir_ / "strict").string();
  const auto said = refusal();
  EXPECT_NE(said.find(GetParam().file), std::string::npos) << said;
  EXPECT_FALSE(fs::exists(dir_ / "strict"));
}

void halve_photo(const fs::path& train) {
  const auto bytes = read_file(train / "train4.jpg");
  write_file(train / "train4.jpg", bytes.substr(0, bytes.size() / 2));
}

/// A damage that replaces a file of item 4.
Damage replaced(std::string name, std::string file, std::string content, std::string why) {
  auto harm = [file, content](const fs::path& train) { write_file(train / file, content); };
  return {std::move(name), std::move(harm), std::move(file), std::move(why)};
}

Damage removed(std::string name, std::string file, std::string why) {
  auto harm = [file](const fs::path& train) { fs::remove(train / file); };
  return {std::move(name), std::move(harm), std::move(file), std::move(why)};
}

const char* const kOutside =
    R"({"text": ["a"], "is_sentence": false,
        "shapes": [{"label": "target", "points": [[5000, 1], [6000, 1], [6000, 9]]}]})";
const char* const kEndMarker = R"({"text": ["a </s> b"], "is_sentence": false, "shapes": []})";

void break_text(const fs::path& train) {
  write_file(train / "train4.json", kEndMarker);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PrepareDamage,
                         ::testing::Values(removed("missing_image", "train4.jpg", "missing"),
                                           Damage{"truncated_image", halve_photo, "train4.jpg", "image"},
                                           replaced("empty_image", "train4.jpg", "", "image"),
                                           replaced("image_is_text", "train4.jpg", "not an image", "image"),
                                           replaced("json_does_not_parse", "train4.json", "{\"text\": [}", "not JSON"),
                                           removed("json_missing", "train4.json", "missing"),
                                           replaced("json_empty", "train4.json", "", "empty"),
                                           replaced("polygon_outside", "train4.json", kOutside, "outside the image"),
                                           Damage{"text_with_end_marker", break_text, "train4", "answer marker"}),
                         [](const auto& test) { return test.param.name; });

TEST_F(PrepareTest, TakesTheDataSetsThatAreThereUnlessTheyAreNamed) {
  config_.dataset = "auto";
  fs::create_directories(dir_ / "data/coco/train2017");
  fs::copy_file(toy::photograph(0), dir_ / "data/coco/train2017/a.jpg");
  write_file(
      dir_ / "data/llava_dataset/llava_instruct_150k.json",
      R"([{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]},
                 {"image": "../../a.jpg", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])");
  const auto outcome = toy::prepare(config_);
  EXPECT_EQ(outcome.manifest.counts.at("train: vqa/llava_instruct_150k").samples, 3);
  EXPECT_EQ(outcome.manifest.counts.at("train: reason_seg/ReasonSeg/train").items, 12);
  EXPECT_NE(outcome.manifest.made_by.find("--dataset vqa||reason_seg"), std::string::npos);
  ASSERT_EQ(outcome.manifest.skipped.size(), 1U);
  EXPECT_NE(outcome.manifest.skipped[0].problem.why.find("leaves the data set folder"), std::string::npos);
  config_.output_dir = (dir_ / "named").string();
  config_.dataset = "vqa||refer_seg";
  EXPECT_NE(refusal().find("refclef"), std::string::npos);
}

TEST_F(PrepareTest, RefusesSettingsThatCannotWork) {
  const auto refused = [this](const std::function<void(PrepareConfig&)>& change, const std::string& word) {
    const auto kept = config_;
    change(config_);
    EXPECT_NE(refusal().find(word), std::string::npos) << word << ": " << refusal();
    config_ = kept;
  };
  refused([](auto& c) { c.version = ""; }, "--version");
  refused([](auto& c) { c.version = "/nowhere"; }, "/nowhere");
  refused([](auto& c) { c.dataset_dir = "/nowhere"; }, "--dataset_dir");
  refused([](auto& c) { c.output_dir = ""; }, "--output_dir");
  refused([](auto& c) { c.dataset = "depth"; }, "depth");
  refused([](auto& c) { c.val_dataset = "ReasonSeg"; }, "--val_dataset");
  refused([](auto& c) { c.conv_type = "llava_v2"; }, "llava_v2");
  refused([](auto& c) { c.explanatory = 1.5; }, "--explanatory");
  refused([](auto& c) { c.dataset = c.val_dataset = ""; }, "nothing to prepare");
}

}  // namespace
}  // namespace tessera::data
