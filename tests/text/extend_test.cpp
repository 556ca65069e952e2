#include "tessera/text/extend.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tessera/core/error.hpp"
#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

const TokenizerAdditions kLlava{
    .special = {"<image>"}, .pad = "<pad>", .processor_class = "LlavaProcessor", .tokenizer_class = "LlamaTokenizer"};

/// Writes the files to a folder of their own.
void put(const ExtendedTokenizer& extended, const TempDir& dir) {
  for (const auto& [name, content] : extended.files) write_file(dir / name, content);
}

void expect_same(const Tokenizer& read, const Tokenizer& made, const std::string& text) {
  EXPECT_EQ(read.encode(text).pieces, made.encode(text).pieces);
  EXPECT_EQ(read.encode_ids(text), made.encode_ids(text));
  EXPECT_EQ(read.size(), made.size());
}

TEST(ExtendTokenizer, ASentencepieceFolderGetsBothTokensBehindItsVocabulary) {
  const TempDir from, to;
  testing_support::put_model("mistral_v1", from.path());
  const ExtendedTokenizer made = extend_tokenizer(from.path(), kLlava);
  EXPECT_EQ(made.tokenizer.require_id("<image>"), 32000);
  EXPECT_EQ(made.pad_id, 32001);
  EXPECT_EQ(made.tokenizer.size(), 32002);
  put(made, to);
  const Tokenizer read = load_tokenizer(to.path());
  EXPECT_EQ(read.release(), Release::transformers_4_37);
  expect_same(read, made.tokenizer, "USER: <image>\nWhat is this?<pad> x");
  const json config = json::parse(made.files.at("tokenizer_config.json"));
  EXPECT_EQ(config.at("added_tokens_decoder").at("32000").at("content"), "<image>");
  EXPECT_EQ(config.at("added_tokens_decoder").at("32000").at("special"), true);
  EXPECT_EQ(config.at("tokenizer_class"), "LlamaTokenizer");
  EXPECT_EQ(config.at("processor_class"), "LlavaProcessor");
  EXPECT_EQ(json::parse(made.files.at("added_tokens.json")), json({{"<image>", 32000}, {"<pad>", 32001}}));
  EXPECT_EQ(json::parse(made.files.at("special_tokens_map.json")),
            json({{"additional_special_tokens", {"<image>"}}, {"pad_token", "<pad>"}}));
}

TEST(ExtendTokenizer, AFoldersOwnPadTokenAndKeysStay) {
  const TempDir from, to;
  testing_support::put_model("tok512", from.path());
  write_file(from / "tokenizer_config.json",
             R"({"pad_token": {"content": "</s>"}, "tokenizer_class": "LlamaTokenizer", "legacy": false,
                 "additional_special_tokens": ["<unk>"], "chat_template": "{{ messages }}"})");
  const ExtendedTokenizer made = extend_tokenizer(from.path(), kLlava);
  EXPECT_EQ(made.pad_id, 2);
  EXPECT_EQ(made.tokenizer.size(), 513);
  put(made, to);
  const Tokenizer read = load_tokenizer(to.path());
  EXPECT_FALSE(read.legacy());
  expect_same(read, made.tokenizer, "a <image>b</s> c");
  const json config = json::parse(made.files.at("tokenizer_config.json"));
  EXPECT_EQ(config.at("chat_template"), "{{ messages }}");
  EXPECT_EQ(config.at("additional_special_tokens"), json({"<unk>", "<image>"}));
  EXPECT_EQ(config.at("pad_token"), "</s>");
}

// Qwen's own files: three added tokens, <|endoftext|> for padding, as its tokenizer_config.json lists them.
TEST(ExtendTokenizer, AByteLevelFolderContinuesBehindItsAddedTokens) {
  for (const char* model : {"qwen", "qwen_json"}) {
    const TempDir from, to;
    testing_support::put_model(model, from.path());
    json config{{"tokenizer_class", "Qwen2Tokenizer"}, {"pad_token", "<|endoftext|>"}, {"eos_token", "<|im_end|>"}};
    std::int64_t id = 151643;
    for (const char* content : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
      config["added_tokens_decoder"][std::to_string(id++)] = {{"content", content}, {"special", true}};
    }
    write_file(from / "tokenizer_config.json", config.dump());
    const ExtendedTokenizer made = extend_tokenizer(from.path(), kLlava);
    EXPECT_EQ(made.tokenizer.require_id("<image>"), 151646) << model;
    EXPECT_EQ(made.pad_id, 151643) << model;
    put(made, to);
    expect_same(load_tokenizer(to.path()), made.tokenizer, "<|im_start|>user\n<image>\nhi<|im_end|>");
    if (std::string(model) == "qwen") continue;
    const json list = json::parse(made.files.at("tokenizer.json")).at("added_tokens");
    ASSERT_EQ(list.size(), 4U);
    EXPECT_EQ(list.back().at("content"), "<image>");
    EXPECT_EQ(list.back().at("id"), 151646);
  }
}

TEST(ExtendTokenizer, ATokenThatIsThereKeepsItsId) {
  const TempDir from;
  testing_support::put_model("tok512", from.path());
  write_file(from / "added_tokens.json", R"({"<image>": 512, "<pad>": 513, "[X]": 514})");
  const ExtendedTokenizer made = extend_tokenizer(from.path(), kLlava);
  EXPECT_EQ(made.tokenizer.require_id("<image>"), 512);
  EXPECT_EQ(made.pad_id, 513);
  EXPECT_EQ(made.tokenizer.size(), 515);
}

TEST(ExtendTokenizer, RefusesAFolderWithoutATokenizerOrPadding) {
  const TempDir from;
  EXPECT_THROW(extend_tokenizer(from.path(), kLlava), RequestError);
  testing_support::put_model("tok512", from.path());
  EXPECT_THROW(extend_tokenizer(from.path(), {.special = {"<image>"}}), RequestError);
  EXPECT_THROW(extend_tokenizer(from / "tokenizer.model", kLlava), RequestError);
  write_file(from / "tokenizer_config.json", "[1]");
  EXPECT_THROW(extend_tokenizer(from.path(), kLlava), RequestError);
}

}  // namespace
}  // namespace tessera::text
