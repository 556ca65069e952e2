// Files that lie are refused by every reader of this room. The corpus, shared with the fuzz targets of tests/fuzz,
// keeps what once broke one, and one file for each kind of lie.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "text/byte_bpe.hpp"
#include "text/folder.hpp"
#include "text/golden_folder.hpp"
#include "text/json_file.hpp"
#include "text/json_tokenizer.hpp"
#include "text/sentencepiece_model.hpp"

namespace tessera::text {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

std::vector<std::string> corpus(const std::string& name) {
  std::vector<std::string> cases;
  for (const auto& file : list_files(std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/fuzz/corpus" / name)) {
    cases.push_back(testing_support::read_file(file));
  }
  return cases;
}

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
  const auto cases = corpus(name);
  EXPECT_GT(cases.size(), 2u);
  for (const std::string& bytes : cases) EXPECT_THROW(read(bytes), RequestError) << bytes.substr(0, 60);
}

TEST(HostileFiles, KnownCasesAreRefused) {
  expect_refused("sentencepiece", read_sentencepiece);
  expect_refused("tokenizer_json", read_tokenizer_json);
  const ConfigReader read_config;
  expect_refused("tokenizer_config", [&](const std::string& bytes) { read_config(bytes); });
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
