// Byte-level BPE behind tessera/text/tokenizer.hpp: what goldens of real vocabularies do not reach.
#include <gtest/gtest.h>

#include "tessera/core/error.hpp"
#include "tessera/text/tokenizer.hpp"
#include "text/byte_bpe.hpp"
#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

json tiny_tokenizer_json() {
  json vocabulary = json::object();
  for (const char* piece : {"a", "b", "c", "ab", "abc", "\u0120", "\u0120a", "!", "\u00c3", "\u00a9"}) {
    vocabulary[piece] = vocabulary.size();
  }
  return {{"added_tokens", json::array({{{"id", 10}, {"content", "<x>"}, {"special", true}, {"normalized", false}}})},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b", "ab c", "\u0120 a"}}}}};
}

class TinyBpe : public ::testing::Test {
 protected:
  Tokenizer load(const json& content) {
    write_file(dir_ / "tokenizer.json", content.dump());
    return load_tokenizer(dir_.path());
  }
  std::string error(const json& content) {
    try {
      load(content);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "";
  }
  TempDir dir_;
};

TEST_F(TinyBpe, MergesByRankAndPutsBytesTogetherAgain) {
  const Tokenizer tokenizer = load(tiny_tokenizer_json());
  const Encoding encoding = tokenizer.encode("abc ab e\u0301<x>!");  // the last letter has no piece, é does
  EXPECT_EQ(encoding.pieces,
            (std::vector<std::string>{"abc", "\u0120", "ab", "\u0120", "\u00c3", "\u00a9", "<x>", "!"}));
  EXPECT_EQ(tokenizer.decode(encoding.ids), "abc ab \u00e9<x>!");
  EXPECT_EQ(tokenizer.decode(encoding.ids, true), "abc ab \u00e9!");
  EXPECT_EQ(tokenizer.decode(std::vector<std::int64_t>{8, 0}),
            "\uFFFD"
            "a");
}

TEST_F(TinyBpe, LongWordsMergeAsShortOnesDo) {
  const Tokenizer tokenizer = load(tiny_tokenizer_json());
  std::string word;
  for (int i = 0; i < 50; ++i) word += "abcabaabcbbc";
  const Encoding whole = tokenizer.encode(word);  // 600 letters: the queue
  Encoding repeated;
  for (int i = 0; i < 50; ++i) {  // 12 letters: the scan; no merge crosses the seams
    const Encoding part = tokenizer.encode("abcabaabcbbc");
    repeated.ids.insert(repeated.ids.end(), part.ids.begin(), part.ids.end());
  }
  EXPECT_EQ(whole.ids, repeated.ids);
  EXPECT_EQ(tokenizer.encode(std::string(2'000'000, 'a')).ids.size(), 2'000'000u);
}

TEST_F(TinyBpe, NamesWhatItDoesNotKnowOrCannotUse) {
  const auto broken = [](const char* pointer, const json& value) {
    json content = tiny_tokenizer_json();
    content[json::json_pointer(pointer)] = value;
    return content;
  };
  const std::vector<std::pair<json, std::string>> cases = {
      {broken("/model/type", "Unigram"), "Unigram"},
      {broken("/model/byte_fallback", true), "byte_fallback"},
      {broken("/model/merges", {"a b c"}), "merge 0"},
      {broken("/model/merges", {"c c"}), "'cc'"},
      {broken("/model/merges", 7), "merges"},
      {broken("/model/vocab/a", -1), "'a'"},
      {broken("/model/vocab/a", 1), "share"},
      {broken("/model/vocab/a", 1'000'000'000), "1000000000"},
      {broken("/model/vocab/a", "x"), "'a'"},
      {broken("/normalizer", {{"type", "Lowercase"}}), "Lowercase"},
      {broken("/pre_tokenizer", {{"type", "Metaspace"}}), "Metaspace"},
      {broken("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}}),
       "compile"},
      {broken("/pre_tokenizer", {{"type", "Digits"}}), "ByteLevel"},
      {broken("/decoder", {{"type", "WordPiece"}}), "WordPiece"},
      {broken("/added_tokens/0/id", -3), "<x>"},
      {broken("/added_tokens/0/id", 1.5), "<x>"},
      {broken("/added_tokens", {{"a", 1}}), "added"},
      {broken("/model", nullptr), "model"},
      {json::array(), "normalizer"},
  };
  for (const auto& [content, word] : cases) {
    const std::string message = error(content);
    EXPECT_NE(message.find(word), std::string::npos) << word << ": " << message;
    EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  }
}

TEST_F(TinyBpe, StopsAPatternThatBacktracksForever) {
  json content = tiny_tokenizer_json();
  content["pre_tokenizer"] = {{"type", "Sequence"},
                              {"pretokenizers",
                               {{{"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}},
                                {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const Tokenizer tokenizer = load(content);
  EXPECT_THROW(tokenizer.encode(std::string(60, 'a') + "!"), RequestError);
}

TEST_F(TinyBpe, ReadsTheNewerFormOfMerges) {
  json content = tiny_tokenizer_json();
  const auto before = load(content).encode_ids("abc a");
  content["model"]["merges"] = json::parse(R"([["a", "b"], ["ab", "c"], ["\u0120", "a"]])");
  EXPECT_EQ(load(content).encode_ids("abc a"), before);
}

TEST_F(TinyBpe, PutsTheTemplatesTokensAroundTheText) {
  json content = tiny_tokenizer_json();
  content["post_processor"] = {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "<x>"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  EXPECT_EQ(load(content).encode_ids("a"), (std::vector<std::int64_t>{10, 0}));
}

TEST_F(TinyBpe, VocabularyAndMergesNeedAClass) {
  write_file(dir_ / "vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  write_file(dir_ / "merges.txt", "#version: 0.2\na b\n");
  EXPECT_THROW(load_tokenizer(dir_.path()), RequestError);
  write_file(dir_ / "tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  EXPECT_EQ(load_tokenizer(dir_.path()).encode_ids("ab"), std::vector<std::int64_t>{2});
  write_file(dir_ / "merges.txt", "a b c\n");
  EXPECT_THROW(load_tokenizer(dir_.path()), RequestError);
}

TEST(QwenVocabulary, IsKnownByItsSizeWhereNoConfigurationLiesBesideIt) {
  const TempDir dir;
  testing_support::put_model("qwen", dir.path());
  const Tokenizer tokenizer = load_tokenizer(dir.path());
  EXPECT_EQ(tokenizer.encode_ids("<|im_start|>user\n"), (std::vector<std::int64_t>{151644, 872, 198}));
  EXPECT_EQ(tokenizer.size(), 151646);
  EXPECT_EQ(tokenizer.pad_id(), 151643);
}

TEST(QwenVocabulary, KeepsMergesThatBeginWithHashUnlessTheOldSlowTokenizerIsWanted) {
  const TempDir dir;
  testing_support::put_model("qwen", dir.path());
  const auto ids_of_golden = [](const std::string& name, const std::string& text) {
    const json golden = testing_support::read_golden(name);
    for (const json& row : golden.at("rows")) {
      if (row[0] == text) return row[1].get<std::vector<std::int64_t>>();
    }
    return std::vector<std::int64_t>{};
  };
  const auto whole = ids_of_golden("q437_fast", "#!/bin/sh");
  const auto dropped = ids_of_golden("q437_slow", "#!/bin/sh");
  ASSERT_NE(whole, dropped);
  EXPECT_EQ(load_tokenizer(dir.path()).encode_ids("#!/bin/sh"), whole);
  EXPECT_EQ(load_tokenizer(dir.path(), {.drop_hash_merges = true}).encode_ids("#!/bin/sh"), dropped);
}

TEST(ByteNames, ComeBackFromTheirVisibleForm) {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  EXPECT_EQ(hide_bytes(show_bytes(all)), all);
}

}  // namespace
}  // namespace tessera::text
