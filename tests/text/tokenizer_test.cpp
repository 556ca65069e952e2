#include "tessera/text/tokenizer.hpp"

#include <gtest/gtest.h>

#include "tessera/core/error.hpp"
#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

std::string error_of(const std::filesystem::path& folder, const TokenizerRules& rules = {}) {
  try {
    load_tokenizer(folder, rules);
  } catch (const RequestError& e) {
    return e.what();
  }
  return "";
}

class PublicTokenizer : public ::testing::TestWithParam<std::string> {};

// Goldens: tests/golden/text/make_tokenizer_goldens.py, at least 200 hard strings each.
TEST_P(PublicTokenizer, GivesTheSameIdsPiecesAndText) {
  const json golden = testing_support::read_golden(GetParam());
  const TempDir folder;
  testing_support::put_golden_folder(golden, folder.path());
  const Tokenizer tokenizer = load_tokenizer(folder.path(), testing_support::golden_rules(golden));
  EXPECT_EQ(tokenizer.size(), golden.at("size").get<std::int64_t>());
  ASSERT_GE(golden.at("rows").size(), 200u);
  for (const json& row : golden.at("rows")) {
    const auto text = row[0].get<std::string>();
    const Encoding encoding = tokenizer.encode(text);
    ASSERT_EQ(json(encoding.ids), row[1]) << "text " << row[0];
    ASSERT_EQ(json(encoding.pieces), row[2]) << "text " << row[0];
    ASSERT_EQ(json(tokenizer.decode(encoding.ids)), row[3]) << "text " << row[0];
    ASSERT_EQ(json(tokenizer.decode(encoding.ids, true)), row[4]) << "text " << row[0];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Goldens, PublicTokenizer,
    ::testing::ValuesIn(testing_support::available_goldens(
        {"m431_bare",           "m431_lisa_in_memory", "m431_lisa_folder",  "m431_new_rules", "m431_map_of_strings",
         "m437_bare",           "m437_new_rules",      "m437_added_legacy", "m437_decoder",   "t437_tiny",
         "t437_tiny_new_rules", "l431_lisa_in_memory", "l437_new_rules",    "l437_bare",      "a437_alpaca",
         "g437_slow",           "g437_fast",           "q437_slow",         "q437_fast",      "n437_bare",
         "n437_flags"})),
    [](const auto& golden) { return golden.param; });

TEST(Tokenizer, FollowsRelease431WhereTheFolderBringsSeg) {
  const TempDir folder;
  testing_support::put_model("mistral_v1", folder.path());
  EXPECT_EQ(load_tokenizer(folder.path()).release(), Release::transformers_4_37);
  write_file(folder / "added_tokens.json", R"({"[SEG]": 32000})");
  const Tokenizer tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer.release(), Release::transformers_4_31);
  EXPECT_EQ(tokenizer.require_id("[SEG]"), 32000);
  EXPECT_EQ(tokenizer.encode_ids("a [SEG] ."), tokenizer.encode_ids("a[SEG]."));
}

TEST(Tokenizer, HashIsThatOfWhatItDoes) {
  const TempDir bare;
  testing_support::put_model("mistral_v1", bare.path());
  const TempDir saved;
  testing_support::put_model("mistral_v1", saved.path());
  write_file(saved / "added_tokens.json", R"({"<im_end>": 32002, "[SEG]": 32000, "<im_start>": 32001})");
  const std::string in_memory = load_tokenizer(bare.path(), lisa_rules()).content_hash();
  EXPECT_EQ(in_memory, load_tokenizer(saved.path()).content_hash());
  EXPECT_EQ(in_memory, load_tokenizer(saved.path(), lisa_rules()).content_hash());
  EXPECT_NE(in_memory, load_tokenizer(bare.path(), lisa_rules(false)).content_hash());
  EXPECT_NE(in_memory, load_tokenizer(saved.path(), {.legacy = false}).content_hash());
  EXPECT_NE(in_memory, load_tokenizer(saved.path(), {.release = Release::transformers_4_37}).content_hash());
  EXPECT_EQ(in_memory.size(), 32u);
}

TEST(Tokenizer, PadsWithTheUnknownTokenAsTheTrainersDo) {
  const TempDir folder;
  testing_support::put_model("mistral_v1", folder.path());
  write_file(folder / "special_tokens_map.json", R"({"pad_token": "</s>"})");
  const Tokenizer tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer.pad_id(), tokenizer.unk_id());
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_FALSE(load_tokenizer(folder.path(), {.add_bos = false}).adds_bos());
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndIdsThatAreNone) {
  const TempDir folder;
  testing_support::put_model("tok512", folder.path());
  const Tokenizer tokenizer = load_tokenizer(folder.path());
  EXPECT_THROW(tokenizer.encode("a\xC3"), RequestError);
  EXPECT_THROW(tokenizer.encode("\xED\xA0\x80"), RequestError);  // a surrogate
  EXPECT_THROW(tokenizer.decode(std::vector<std::int64_t>{512}), RequestError);
  EXPECT_THROW(tokenizer.decode(std::vector<std::int64_t>{-200}), RequestError);
  EXPECT_THROW(tokenizer.require_id("[SEG]"), RequestError);
}

TEST(Tokenizer, NamesTheFileThatIsBroken) {
  const TempDir folder;
  EXPECT_NE(error_of(folder / "absent").find("absent"), std::string::npos);
  EXPECT_NE(error_of(folder.path()).find("tokenizer.model"), std::string::npos);
  write_file(folder / "tokenizer.model", "no model");
  EXPECT_NE(error_of(folder.path()).find("tokenizer.model"), std::string::npos);
  testing_support::put_model("tok512", folder.path());
  for (const char* bad : {"{", "[]", R"({"bos_token": 7})", R"({"bos_token": {"content": 1}})", R"({"legacy": "yes"})",
                          R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
                          R"({"added_tokens_decoder": {"99999999999": {"content": "a"}}})"}) {
    write_file(folder / "tokenizer_config.json", bad);
    EXPECT_NE(error_of(folder.path()).find("tokenizer_config.json"), std::string::npos) << bad;
  }
  write_file(folder / "tokenizer_config.json", "{}");
  for (const char* bad : {R"({"a": -1})", R"({"a": 600, "b": 600})", R"({"a": "x"})", R"({"a": 1e30})", "nul"}) {
    write_file(folder / "added_tokens.json", bad);
    EXPECT_NE(error_of(folder.path()).find("added_tokens.json"), std::string::npos) << bad;
  }
  write_file(folder / "added_tokens.json", std::string(100000, '[') + std::string(100000, ']'));
  EXPECT_NE(error_of(folder.path()).find("nested"), std::string::npos);
}

}  // namespace
}  // namespace tessera::text
