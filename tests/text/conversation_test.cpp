#include "tessera/text/conversation.hpp"

#include <gtest/gtest.h>

#include <map>

#include "tessera/core/error.hpp"
#include "tessera/core/hash.hpp"
#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

/// Tokenizers by model and legacy flag, each loaded once.
class Tokenizers {
 public:
  const Tokenizer& get(const json& golden, bool lisa) {
    const auto model = golden.at("model").get<std::string>();
    const json& legacy = golden.at("legacy");
    const auto [it, is_new] = loaded_.try_emplace(model + legacy.dump());
    if (!is_new) return *it->second;
    const auto folder = dir_ / (model + legacy.dump());
    testing_support::put_model(model, folder);
    if (model == "qwen") {
      const json config = testing_support::read_golden("q437_fast").at("files").at("tokenizer_config.json");
      write_file(folder / "tokenizer_config.json", config.dump());
    } else if (model == "gpt_neox_20b") {
      write_file(folder / "tokenizer_config.json",
                 R"({"tokenizer_class": "GPTNeoXTokenizer", "pad_token": "<|endoftext|>"})");
    }
    TokenizerRules rules = lisa ? lisa_rules() : TokenizerRules{};
    if (legacy.is_boolean()) rules.legacy = legacy.get<bool>();
    if (model == "gpt_neox_20b") {
      rules.add = {{.content = "<|im_start|>", .special = true}, {.content = "<|im_end|>", .special = true}};
    }
    it->second = std::make_unique<Tokenizer>(load_tokenizer(folder, rules));
    return *it->second;
  }

 private:
  TempDir dir_;
  std::map<std::string, std::unique_ptr<Tokenizer>> loaded_;
};

std::vector<std::int64_t> labels_of(const json& result) {
  const auto ids = result.at("input_ids").get<std::vector<std::int64_t>>();
  std::vector<std::int64_t> labels(ids.size(), kIgnoreId);
  for (const json& run : result.at("learned")) {
    for (auto i = run[0].get<std::size_t>(); i < run[1].get<std::size_t>(); ++i) labels[i] = ids[i];
  }
  return labels;
}

/// Cases of one model of a golden made by make_conversation_goldens.py.
std::vector<json> cases_of(const json& golden, const std::string& model) {
  std::vector<json> cases;
  for (const json& one : golden.at("cases")) {
    if (one.at("model") == model) cases.push_back(one);
  }
  return cases;
}

class ReferenceModel : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceModel, LisaCollatesTheSameIdsAndLabels) {
  const std::vector<json> cases = cases_of(testing_support::read_golden("conversation_lisa"), GetParam());
  Tokenizers tokenizers;
  int refused = 0;
  for (const json& one : cases) {
    const Template& form = find_template(one.at("template").get<std::string>());
    const auto text = one.at("text").get<std::string>();
    ASSERT_EQ(build_prompt(form, one.at("messages").get<std::vector<std::string>>()), text);
    for (const bool validation : {false, true}) {
      const json& result = one.at(validation ? "validation" : "training");
      ConversationOptions options;
      options.max_length = one.at("max_length").get<std::int64_t>();
      options.start_end = one.at("start_end").get<bool>();
      options.truncate = !validation;
      const Tokenizer& tokenizer = tokenizers.get(one, true);
      if (result.is_null()) {
        ASSERT_THROW(encode_conversation(tokenizer, form, text, options), RequestError) << one;
        ++refused;
        continue;
      }
      const Encoded encoded = encode_conversation(tokenizer, form, text, options);
      ASSERT_EQ(json(encoded.input_ids), result.at("input_ids")) << one;
      ASSERT_EQ(encoded.labels, labels_of(result)) << one;
    }
  }
  EXPECT_GT(cases.size(), 80u);
  EXPECT_GT(refused, 0);
}

INSTANTIATE_TEST_SUITE_P(Lisa, ReferenceModel,
                         ::testing::ValuesIn(testing_support::available_models({"mistral_v1", "llama2"})),
                         [](const auto& model) { return model.param; });

class LlavaModel : public ::testing::TestWithParam<std::string> {};

TEST_P(LlavaModel, TrainsOnTheSameIdsAndLabels) {
  const std::vector<json> cases = cases_of(testing_support::read_golden("conversation_llava"), GetParam());
  Tokenizers tokenizers;
  int mismatches = 0;
  for (const json& one : cases) {
    const Template& form = find_template(one.at("template").get<std::string>());
    std::vector<Turn> turns;
    for (const json& turn : one.at("turns")) turns.push_back({turn.at("from"), turn.at("value")});
    ConversationOptions options;
    options.recipe = Recipe::llava;
    options.max_length = one.at("max_length").get<std::int64_t>();
    options.has_image = one.at("has_image").get<bool>();
    for (const char* key : {"result", "strict"}) {
      if (!one.contains(key)) continue;
      const json& result = one.at(key);
      options.strict_mpt = std::string_view(key) == "strict";
      if (result.is_null()) {
        ASSERT_THROW(build_prompt(form, turns, "record"), RequestError) << one;
        continue;
      }
      const std::string text =
          form.style == Style::single ? one.at("text").get<std::string>() : build_prompt(form, turns, "record");
      if (form.style != Style::plain) {
        ASSERT_EQ(text, one.at("text").get<std::string>());
      }
      const Encoded encoded = encode_conversation(tokenizers.get(one, false), form, text, options);
      ASSERT_EQ(json(encoded.input_ids), result.at("input_ids")) << key << one;
      ASSERT_EQ(encoded.labels, labels_of(result)) << key << one;
      ASSERT_EQ(encoded.mismatch, result.at("mismatch").get<bool>()) << key << one;
      mismatches += encoded.mismatch;
    }
  }
  EXPECT_GT(cases.size(), 40u);
  EXPECT_GT(mismatches, 0);
}

INSTANTIATE_TEST_SUITE_P(Llava, LlavaModel,
                         ::testing::ValuesIn(testing_support::available_models({"mistral_v1", "llama2", "gpt_neox_20b",
                                                                                "qwen"})),
                         [](const auto& model) { return model.param; });

TEST(Conversation, SystemTextsAreThePublishedOnes) {
  // Byte lengths as the reference's texts have them; the texts themselves are compared through the goldens' prompts.
  const std::map<std::string, std::size_t> lengths = {
      {"llama_2", 508},  {"vicuna_v1", 154}, {"llava_v1", 156}, {"llava_v0", 156},      {"default", 156},
      {"v0_mmtag", 311}, {"v1_mmtag", 311},  {"mpt", 127},      {"llava_llama_2", 186}, {"chatml_direct", 40}};
  for (const auto& [name, length] : lengths) EXPECT_EQ(find_template(name).system.size(), length) << name;
}

TEST(Conversation, AsksForAnAnswerWhenTheLastMessageIsEmpty) {
  EXPECT_TRUE(build_prompt(find_template("llava_v1"), {"hi", ""}).ends_with("USER: hi ASSISTANT:"));
  EXPECT_TRUE(build_prompt(find_template("qwen_2"), {"hi", ""}).ends_with("<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_TRUE(build_prompt(find_template("llava_llama_2"), {"hi", ""}).ends_with("<</SYS>>\n\nhi [/INST]"));
  EXPECT_TRUE(build_prompt(find_template("llava_v0"), {"hi", ""}).ends_with("###Human: hi###Assistant:"));
}

TEST(Conversation, NamesTheNearestTemplate) {
  try {
    find_template("llava_v2");
    FAIL();
  } catch (const RequestError& e) {
    EXPECT_NE(std::string(e.what()).find("llava_v1"), std::string::npos) << e.what();
  }
}

TEST(Conversation, MovesTheImageToTheFront) {
  std::vector<Turn> turns = {{"human", "What\n<image>\nis <image> this? "}, {"gpt", "x"}};
  move_image_to_front(find_template("v1"), false, turns);
  EXPECT_EQ(turns[0].value, "<image>\nWhat\n\nis  this?");
  turns[0].value = "<image>";
  move_image_to_front(find_template("v1_mmtag"), true, turns);
  EXPECT_EQ(turns[0].value, "<Image><im_start><image><im_end></Image>");
}

TEST(Conversation, LeavesRoomForTheImageOfAnyTower) {
  const TempDir folder;
  const Tokenizer tokenizer = testing_support::lisa_tokenizer(folder.path());
  const Template& form = find_template("llava_v1");
  std::string answer;
  for (int i = 0; i < 300; ++i) answer += " cat";
  const std::string text = build_prompt(form, {"<image>\nx", "A" + answer + " [SEG]."});
  ConversationOptions options;
  options.max_length = 700;
  options.image_patches = 577;
  const Encoded encoded = encode_conversation(tokenizer, form, text, options);
  EXPECT_EQ(encoded.input_ids.size(), 700u - 576u);
  EXPECT_EQ(encoded.labels.size(), encoded.input_ids.size());
  EXPECT_GT(encoded.full_length, 300);
  options.max_length = 500;
  EXPECT_THROW(encode_conversation(tokenizer, form, text, options), RequestError);
}

TEST(Conversation, RefusesWhatTheRuleCannotLabelAndNamesTheSample) {
  const TempDir folder;
  const Tokenizer tokenizer = testing_support::lisa_tokenizer(folder.path());
  ConversationOptions options;
  options.label = "photo.json item 3";
  const auto error = [&](const std::string& form, const std::string& text) -> std::string {
    try {
      encode_conversation(tokenizer, find_template(form), text, options);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "";
  };
  const Template& v1 = find_template("llava_v1");
  EXPECT_EQ(error("llava_v1", build_prompt(v1, {"a", "b"})), "");
  for (const auto& messages : std::vector<std::vector<std::string>>{
           {"a</s>b", "c"}, {"a ASSISTANT: b", "c"}, {"a", "b</s>c"}, {"a", "b <unk> c"}, {"a", ""}, {"a", "b", "c"}}) {
    EXPECT_NE(error("llava_v1", build_prompt(v1, messages)).find("photo.json item 3"), std::string::npos)
        << messages[0];
  }
  EXPECT_NE(error("llava_llama_2", build_prompt(v1, {"a", "b"})), "");
  EXPECT_NE(error("v0", "x").find("llava_v1"), std::string::npos);
}

}  // namespace
}  // namespace tessera::text
