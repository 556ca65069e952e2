// Files that lie: every reader of this room refuses them with RequestError or reads them; none crashes, hangs or
// allocates by their word. The corpus keeps what once did otherwise, and one file for each kind of lie.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/byte_bpe.hpp"
#include "text/folder.hpp"
#include "text/fuzz.hpp"
#include "text/golden_folder.hpp"
#include "text/json_file.hpp"
#include "text/json_tokenizer.hpp"
#include "text/sentencepiece_model.hpp"

namespace tessera::text {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

constexpr const char* kTinyJson =
    R"({"added_tokens":[{"id":4,"content":"<x>","special":true,"normalized":false,"lstrip":true}],)"
    R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":)"
    R"({"Regex":"\\s+|\\p{L}+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,)"
    R"("use_regex":false}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<x>"}},)"
    R"({"Sequence":{"id":"A"}}]},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","unk_token":null,)"
    R"("vocab":{"a":0,"b":1,"ab":2,"c":3},"merges":["a b"]}})";

constexpr const char* kTinyConfig =
    R"({"legacy":false,"add_bos_token":true,"bos_token":{"__type":"AddedToken","content":"<s>","lstrip":true},)"
    R"("eos_token":"</s>","unk_token":"<unk>","additional_special_tokens":["<i>",{"content":"<j>"}],)"
    R"("added_tokens_decoder":{"512":{"content":"[SEG]","single_word":true,"special":false}}})";

const std::vector<std::string> kJsonWords = {"null",     "true",    "-1",           "1e999", "{}",
                                             "[]",       "\"\"",    "[[[[[[[[",     "{\"",   "\\u0000",
                                             "\\ud800",  ",",       "\xFF",         ":",     "999999999999999999999",
                                             "67108864", "\"id\":", "\"content\":", "(?R)",  "(a+)+$",
                                             "\\\\p{L}", "[^"};
// Varints of absurd length, tags, a character map's header.
const std::vector<std::string> kProtoWords = {std::string("\xFF\xFF\xFF\xFF\x0F", 5),
                                              std::string("\x0A\x00", 2),
                                              std::string("\x1A\x7F\x12\x7B\x08\x00\x00\x00", 8),
                                              std::string("\x12\x00", 2),
                                              std::string("\x18\x06", 2),
                                              std::string("\xC0\x02\x00", 3)};

void read_sentencepiece(const std::string& bytes) {
  const SentencePieceModel model(bytes, true, "fuzzed.model");
  std::vector<std::int64_t> ids;
  std::vector<std::string> pieces;
  model.encode("Once upon a time \xE4\xBD\xA0 \xEF\xAC\x81", ids, pieces);
  model.join(pieces);
}

void read_tokenizer_json(const std::string& bytes) {
  JsonTokenizerFile file = parse_tokenizer_json(parse_json(bytes, "fuzzed.json"), "fuzzed.json");
  const ByteBpe model(file.vocabulary, file.merges, std::move(file.settings), "fuzzed.json");
  std::vector<std::int64_t> ids;
  std::vector<std::string> pieces;
  model.encode("aab cab  \xE4\xBD\xA0", ids, pieces);
  model.join(pieces);
}

class ConfigReader {
 public:
  ConfigReader() { testing_support::put_model("tok512", dir_.path()); }
  void operator()(const std::string& bytes) const {
    write_file(dir_ / "tokenizer_config.json", bytes);
    const Tokenizer tokenizer = load_tokenizer(dir_.path());
    tokenizer.decode(tokenizer.encode_ids("Once <s> [SEG] upon"));
  }

 private:
  TempDir dir_;
};

std::string tiny_model() {
  return testing_support::read_file(testing_support::golden_dir() / "models/tok512/tokenizer.model");
}

template <class Reader>
void expect_refused(const std::string& name, const Reader& read) {
  const auto cases = testing_support::corpus(name);
  EXPECT_GT(cases.size(), 2u);
  for (const std::string& bytes : cases) EXPECT_THROW(read(bytes), RequestError) << bytes.substr(0, 60);
}

TEST(HostileFiles, KnownCasesAreRefused) {
  expect_refused("sentencepiece", read_sentencepiece);
  expect_refused("tokenizer_json", read_tokenizer_json);
  const ConfigReader read_config;
  expect_refused("tokenizer_config", [&](const std::string& bytes) { read_config(bytes); });
}

TEST(HostileFiles, FuzzedSentencepieceModelsAreRefusedOrRead) {
  std::vector<std::string> seeds = testing_support::corpus("sentencepiece");
  seeds.push_back(tiny_model());
  const auto result = testing_support::fuzz("sentencepiece", seeds, kProtoWords, read_sentencepiece);
  EXPECT_GT(result.refused, 0);
}

TEST(HostileFiles, FuzzedTokenizerJsonIsRefusedOrRead) {
  std::vector<std::string> seeds = testing_support::corpus("tokenizer_json");
  for (int i = 0; i < 10; ++i) seeds.emplace_back(kTinyJson);
  const auto result = testing_support::fuzz("tokenizer_json", seeds, kJsonWords, read_tokenizer_json);
  EXPECT_GT(result.refused, 0);
  EXPECT_NO_THROW(read_tokenizer_json(kTinyJson));
}

TEST(HostileFiles, FuzzedTokenizerConfigIsRefusedOrRead) {
  const ConfigReader read_config;
  std::vector<std::string> seeds = testing_support::corpus("tokenizer_config");
  for (int i = 0; i < 10; ++i) seeds.emplace_back(kTinyConfig);
  const auto result = testing_support::fuzz("tokenizer_config", seeds, kJsonWords,
                                            [&](const std::string& bytes) { read_config(bytes); });
  EXPECT_GT(result.refused, 0);
  EXPECT_NO_THROW(read_config(kTinyConfig));
}

// Each cut of a small real model is refused or works.
TEST(HostileFiles, CutModelsAreRefusedOrRead) {
  const std::string good = tiny_model();
  int refused = 0;
  for (std::size_t cut = 0; cut < good.size(); cut += 61) {
    try {
      read_sentencepiece(good.substr(0, cut));
    } catch (const RequestError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 50);
}

TEST(HostileFiles, DeepNestingIsRefusedBeforeItIsBuilt) {
  const std::string deep = std::string(1 << 20, '[') + std::string(1 << 20, ']');
  EXPECT_THROW(parse_json(deep, "deep.json"), RequestError);
  std::string object;
  for (int i = 0; i < 100000; ++i) object += "{\"a\":";
  EXPECT_THROW(parse_json(object, "deep.json"), RequestError);
}

}  // namespace
}  // namespace tessera::text
