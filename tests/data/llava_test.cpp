#include "tessera/data/llava.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "data/toy.hpp"
#include "data/words.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/shards.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

const json& golden() {
  static const auto read =
      json::parse(read_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/data/data/llava_dataset.json"));
  return read;
}

/// Our one deviation: the reference drops a leading answer for the templates that take turns as pairs, and keeps it
/// (v0) or stops (plain) for the others; we drop it everywhere.
bool begins_with_an_answer(const json& record) {
  return record.at("conversations").at(0).at("from") == "gpt";
}
bool keeps_leading_answers(const std::string& form) {
  return form == "v0" || form == "plain";
}

class LlavaGolden : public ::testing::TestWithParam<std::size_t> {
 protected:
  LlavaGolden() : golden_case_(golden().at("cases").at(GetParam())) {
    const auto model = dir_ / "model";
    fs::create_directories(model);
    fs::copy_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/text/models/mistral_v1/tokenizer.model",
                  model / "tokenizer.model");
    write_file(model / "tokenizer_config.json",
               json{{"legacy", golden_case_.at("legacy")}, {"tokenizer_class", "LlamaTokenizer"}}.dump());
    fs::create_directories(dir_ / "photos");
    for (std::size_t n = 0; n < 3; ++n) {
      fs::copy_file(toy::photograph(n), dir_ / ("photos/photo" + std::to_string(n) + ".jpg"));
    }
    write_file(dir_ / "chat.json", golden().at("records").dump());
    config_.dataset = "llava";
    config_.data_path = {(dir_ / "chat.json").string()};
    config_.image_folder = {(dir_ / "photos").string()};
    config_.version = model.string();
    config_.output_dir = (dir_ / "shards").string();
    config_.conv_type = golden_case_.at("template");
    config_.use_mm_start_end = golden_case_.at("start_end").get<bool>();
    config_.draws = 1;
    config_.quiet = true;
  }

  /// Whether the text has as many places as the record has images: beyond that the reference reads another sample's.
  static bool places_fit(const json& item, const json& record) {
    const auto& ids = item.at("input_ids");
    const auto places = std::count(ids.begin(), ids.end(), -200);
    return places == (record.contains("image") ? 1 : 0) || (places == 0 && record.contains("image"));
  }

  static std::vector<std::int32_t> labels_of(const json& item) {
    const auto ids = item.at("input_ids").get<std::vector<std::int32_t>>();
    std::vector<std::int32_t> labels(ids.size(), -100);
    for (const auto& run : item.at("learned")) {
      for (auto p = run[0].get<std::size_t>(); p < run[1].get<std::size_t>(); ++p) labels[p] = ids[p];
    }
    return labels;
  }

  TempDir dir_;
  json golden_case_;
  PrepareConfig config_;
};

TEST_P(LlavaGolden, IdsLabelsAndLengthsAreTheReferences) {
  const auto outcome = toy::prepare(config_);
  const auto shards = Shards::open(config_.output_dir, "train", {.recipe = "llava"});
  std::map<std::int64_t, std::int64_t> row_of;  // by record
  for (std::int64_t row = 0; row < shards.size(); ++row) row_of[shards.read(row).item] = row;
  std::size_t left_out = 0;
  const auto& items = golden_case_.at("items");
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto& record = golden().at("records").at(i);
    if (begins_with_an_answer(record) && keeps_leading_answers(config_.conv_type)) continue;
    if (items[i].is_null() || items[i].at("mismatch").get<bool>() || !places_fit(items[i], record)) {
      EXPECT_FALSE(row_of.contains(static_cast<std::int64_t>(i))) << record;
      ++left_out;
      continue;
    }
    ASSERT_TRUE(row_of.contains(static_cast<std::int64_t>(i))) << record;
    const auto row = row_of.at(static_cast<std::int64_t>(i));
    const auto sample = shards.read(row);
    EXPECT_EQ(json(sample.conversations.at(0).ids), items[i].at("input_ids")) << record;
    EXPECT_EQ(sample.conversations.at(0).labels, labels_of(items[i])) << record;
    EXPECT_EQ(sample.has_image(), record.contains("image"));
    if (record.contains("image")) {
      EXPECT_EQ(std::string(sample.image.begin(), sample.image.end()),
                read_file(dir_ / ("photos/" + record.at("image").get<std::string>())));
    }
    EXPECT_EQ(shards.sizes_of(row).words, std::abs(golden().at("modality_lengths").at(i).get<std::int64_t>()));
  }
  EXPECT_EQ(outcome.manifest.skipped.size(), left_out);
  EXPECT_GT(row_of.size(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Templates, LlavaGolden, ::testing::Range(std::size_t{0}, golden().at("cases").size()),
                         [](const auto& test) {
                           const auto& one = golden().at("cases").at(test.param);
                           return one.at("template").template get<std::string>() +
                                  (one.at("legacy").template get<bool>() ? "" : "_new_rules") +
                                  (one.at("start_end").template get<bool>() ? "_start_end" : "");
                         });

class LlavaFile : public ::testing::Test {
 protected:
  std::unique_ptr<Reader> read(const std::string& text) {
    write_file(dir_ / "talk.json", text);
    return llava_training(dir_ / "talk.json", "");
  }
  TempDir dir_;
};

TEST_F(LlavaFile, TakesOneImageSeveralOrNone) {
  const auto reader = read(R"([
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]},
    {"image": ["a.jpg", "sub/b.jpg"],
     "conversations": [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "a"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])");
  ASSERT_EQ(reader->items().size(), 3U);
  EXPECT_TRUE(reader->problems().empty());
  EXPECT_EQ(reader->image_folder(), dir_.path());
  EXPECT_EQ(reader->source(), "llava/talk");
  EXPECT_EQ(reader->items()[1].image, "a.jpg");
  EXPECT_EQ(reader->items()[1].more_images, std::vector<std::string>{"sub/b.jpg"});
  EXPECT_TRUE(reader->items()[2].image.empty());
  std::vector<Choices> draws(2, Choices(std::vector<std::int32_t>{}));
  const auto made = reader->make(1, {4, 4}, draws);
  ASSERT_EQ(made.samples.size(), 2U);
  EXPECT_EQ(made.samples[0].conversations[0].messages, (std::vector<std::string>{"<image> or <image>?", "a"}));
  EXPECT_EQ(made.samples[0].conversations[0].words, 4);
}

TEST_F(LlavaFile, ReportsRecordsOfOtherTypes) {
  const auto reader = read(R"([
    7,
    {"image": 3, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"image": "", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"image": "a.jpg"},
    {"image": "a.jpg", "conversations": {"from": "human"}},
    {"image": "a.jpg", "conversations": [{"from": "human", "value": 5}]},
    {"image": "a.jpg", "conversations": [{"from": "system", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "a"}]},
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "q"}]}])");
  EXPECT_TRUE(reader->items().empty());
  ASSERT_EQ(reader->problems().size(), 9U);
  EXPECT_EQ(reader->problems()[5].where, "[5].conversations[0].value");
  EXPECT_THROW(read("{}"), RequestError);
  EXPECT_THROW(read("[{]"), RequestError);
  EXPECT_THROW(llava_training(dir_ / "none.json", ""), RequestError);
}

/// prepare of a file with several images and text alone.
class LlavaPrepare : public LlavaFile {
 protected:
  LlavaPrepare() {
    for (std::size_t n = 0; n < 3; ++n) fs::copy_file(toy::photograph(n), dir_ / (std::to_string(n) + ".jpg"));
    write_file(dir_ / "mix.json", R"([
      {"image": ["0.jpg", "1.jpg"],
       "conversations": [{"from": "human", "value": "<image> then <image>?"}, {"from": "gpt", "value": "a"}]},
      {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "alone"}]},
      {"image": "1.jpg", "conversations": [{"from": "human", "value": "q\n<image>"}, {"from": "gpt", "value": "b"}]},
      {"image": ["2.jpg", "0.jpg"], "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "c"}]},
      {"image": "../mix.json", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "d"}]}])");
    config_.data_path = {(dir_ / "mix.json").string()};
    config_.dataset = "llava";
    config_.version = toy::model_folder().string();
    config_.output_dir = (dir_ / "shards").string();
    config_.draws = 2;
    config_.quiet = true;
  }
  PrepareConfig config_;
};

TEST_F(LlavaPrepare, StoresImagesOnceAndTextWithoutAny) {
  const auto outcome = toy::prepare(config_);
  ASSERT_EQ(outcome.manifest.skipped.size(), 2U);
  const auto said = outcome.manifest.skipped[0].problem.text() + outcome.manifest.skipped[1].problem.text();
  EXPECT_NE(said.find("1 <image> in its text for 2 images"), std::string::npos) << said;
  EXPECT_NE(said.find("leaves the data set folder"), std::string::npos) << said;
  ASSERT_EQ(outcome.manifest.shards.size(), 1U);
  EXPECT_EQ(outcome.manifest.shards[0].images, 2);
  const ShardFile file(dir_ / ("shards/" + outcome.manifest.shards[0].name));
  EXPECT_TRUE(file.verify().empty());
  EXPECT_EQ(file.header().recipe, "llava");
  ASSERT_EQ(file.samples(), 6);
  const auto two = file.read(0);
  EXPECT_EQ(two.image_name, "0.jpg");
  ASSERT_EQ(two.more_images.size(), 1U);
  EXPECT_EQ(two.more_images[0].name, "1.jpg");
  const auto& ids = two.conversations.at(0).ids;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), -200), 2);
  EXPECT_FALSE(file.read(2).has_image());
  EXPECT_EQ(file.sizes_of(2).images, 0);
  EXPECT_EQ(file.images_of(4), file.images_of(5));
  EXPECT_EQ(file.images_of(4).at(0), file.images_of(0).at(1));
}

/// Lists of files with a folder each, as ml-fastvlm has them.
class LlavaLists : public LlavaFile {
 protected:
  LlavaLists() {
    for (const std::string set : {"one", "two"}) {
      fs::create_directories(dir_ / (set + "/pictures"));
      fs::copy_file(toy::photograph(set == "one" ? 0 : 1), dir_ / (set + "/pictures/0.jpg"));
      write_file(dir_ / (set + "/train.json"),
                 R"([{"image": "0.jpg", "conversations": [{"from": "human", "value": "<image>"},
                                                          {"from": "gpt", "value": ")" +
                     set + R"("}]}])");
    }
    config_.dataset = "llava";
    config_.version = toy::model_folder().string();
    config_.output_dir = (dir_ / "shards").string();
    config_.draws = 1;
    config_.quiet = true;
  }
  std::string file(const std::string& set) const { return (dir_ / (set + "/train.json")).string(); }
  std::string folder(const std::string& set) const { return (dir_ / (set + "/pictures")).string(); }

  /// Answer and picture of each sample, in order.
  std::vector<std::pair<std::string, std::string>> prepared() {
    EXPECT_TRUE(toy::prepare(config_).manifest.skipped.empty());
    const auto shards = Shards::open(config_.output_dir, "train", {});
    std::vector<std::pair<std::string, std::string>> out;
    for (std::int64_t row = 0; row < shards.size(); ++row) {
      const auto sample = shards.read(row);
      const auto& text = sample.conversations.at(0).text;
      const bool two = text.find("two") != std::string::npos;
      out.emplace_back(two ? "two" : "one", std::string(sample.image.begin(), sample.image.end()));
      sources_.insert(shards.source_of(row));
    }
    return out;
  }
  PrepareConfig config_;
  std::set<std::string> sources_;
};

TEST_F(LlavaLists, FilesOfOneNameHaveTheirOwnFolders) {
  config_.data_path = {file("one"), file("two")};
  config_.image_folder = {folder("one"), folder("two")};
  const auto own = prepared();
  ASSERT_EQ(own.size(), 2U);
  for (const auto& [said, picture] : own) EXPECT_EQ(picture, read_file(dir_ / (said + "/pictures/0.jpg")));
  EXPECT_EQ(sources_, (std::set<std::string>{"llava/train", "llava/train#2"}));

  // The same in one value, with bars.
  config_.data_path = {file("one") + "||" + file("two")};
  config_.image_folder = {folder("one") + "||" + folder("two")};
  EXPECT_EQ(prepared(), own);
}

TEST_F(LlavaLists, AFileThatIsThereTwiceCountsTwice) {
  config_.data_path = {file("one"), file("two"), file("one")};
  config_.image_folder = {folder("one"), folder("two"), folder("one")};
  const auto samples = prepared();
  ASSERT_EQ(samples.size(), 3U);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](const auto& s) { return s.first == "one"; }), 2);

  // One pass over the shards takes every record once: the files are in it as they are long.
  const auto shards = Shards::open(config_.output_dir, "train", {});
  LoaderConfig loader;
  loader.batch_size = 3;
  loader.workers = 1;
  InputSpec spec;
  spec.sam_size = 0;
  const Loader stream(loader, spec, shards, 5, 0, 1);
  EXPECT_EQ(stream.epoch_samples(), 3);
  for (const std::int64_t step : {0, 1, 2}) {
    const auto rows = stream.rows_of(step, 0);
    EXPECT_EQ(std::set<std::int64_t>(rows.begin(), rows.end()), (std::set<std::int64_t>{0, 1, 2}));
  }
}

TEST_F(LlavaPrepare, ForLisaTakesOneImageAConversation) {
  config_.recipe = "lisa";
  config_.val_dataset = "";
  const auto outcome = toy::prepare(config_);
  EXPECT_EQ(outcome.manifest.skipped.size(), 4U);
  const auto shards = Shards::open(config_.output_dir, "train", {});
  ASSERT_EQ(shards.size(), 2);
  EXPECT_NE(shards.read(0).conversations.at(0).text.find("USER: <image>\nq ASSISTANT: b</s>"), std::string::npos);
}

TEST_F(LlavaPrepare, RefusesFoldersThatDoNotMatchItsFiles) {
  const auto refused = [&](const std::string& word) {
    try {
      toy::prepare(config_);
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
      return;
    }
    ADD_FAILURE() << word;
  };
  config_.image_folder = {"/nowhere"};
  refused("/nowhere");
  config_.image_folder = {dir_.path().string() + "||" + dir_.path().string()};
  refused("--image_folder names 2 folders");
  config_.image_folder.clear();
  config_.dataset = "llava||reason_seg";
  config_.recipe = "llava";
  refused("reason_seg");
  config_.dataset = "llava";
  config_.data_path = {""};
  refused("a name is empty");
  config_.data_path.clear();
  config_.dataset_dir = dir_.path().string();
  refused("--data_path");
}

TEST(Words, AreCountedAsPythonSplits) {
  EXPECT_EQ(count_words(""), 0);
  EXPECT_EQ(count_words("  a\tb\n\nc "), 3);
  EXPECT_EQ(count_words("a\xc2\xa0"
                        "b\xe3\x80\x80"
                        "c\xe2\x80\x8b"
                        "d"),
            3);  // a no-break and an ideographic space separate, a zero-width one does not
  EXPECT_EQ(count_words("a\x1f"
                        "b"),
            2);
}

}  // namespace
}  // namespace tessera::data
