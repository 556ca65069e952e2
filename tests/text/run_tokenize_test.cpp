#include "tessera/text/run_tokenize.hpp"

#include <gtest/gtest.h>

#include "tessera/core/error.hpp"
#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;
using testing_support::TempDir;
using testing_support::write_file;

class RunTokenize : public ::testing::Test {
 protected:
  RunTokenize() {
    testing_support::put_model("mistral_v1", dir_.path());
    request_.model = dir_.path();
    request_.inputs = dir_ / "texts.json";
    request_.outputs = dir_ / "ids.json";
  }
  json run(const json& texts) {
    write_file(request_.inputs, texts.dump());
    run_tokenize(request_);
    return json::parse(testing_support::read_file(request_.outputs));
  }
  void add_seg() {
    write_file(dir_ / "added_tokens.json", R"({"[SEG]": 32000, "<im_start>": 32001, "<im_end>": 32002})");
  }

  TempDir dir_;
  TokenizeRequest request_;
};

TEST_F(RunTokenize, WritesIdsPiecesAndTextPerString) {
  const json out = run({"Hello world", ""});
  const Tokenizer tokenizer = load_tokenizer(dir_.path());
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].at("ids"), json(tokenizer.encode_ids("Hello world")));
  EXPECT_EQ(out[0].at("pieces"), json({"<s>", "\u2581Hello", "\u2581world"}));
  EXPECT_EQ(out[0].at("text"), "<s>Hello world");
  EXPECT_EQ(out[1].at("ids"), json({1}));
  request_.bos = false;
  EXPECT_EQ(run({""})[0].at("ids"), json::array());
  request_.image_token = true;
  EXPECT_EQ(run({"<image>"})[0].at("ids"), json({-200}));
}

TEST_F(RunTokenize, TakesTheReleaseFromTheFolderUntilToldOtherwise) {
  add_seg();
  const json stripped = run({"a [SEG] b"});
  request_.strip_added_tokens = false;
  EXPECT_NE(run({"a [SEG] b"}), stripped);
  request_.strip_added_tokens = true;
  EXPECT_EQ(run({"a [SEG] b"}), stripped);
}

TEST_F(RunTokenize, LabelsConversationsByTheFoldersRecipe) {
  request_.conversations = true;
  request_.form = "llava_v1";
  std::string words;
  for (int i = 0; i < 400; ++i) words += " word";
  const Template& form = find_template("llava_v1");
  const std::string text = build_prompt(form, {"<image>\nhi", "A" + words});
  const json llava = run({text});
  EXPECT_GT(llava[0].at("input_ids").size(), 400u);
  add_seg();
  const json lisa = run({text});
  EXPECT_EQ(lisa[0].at("input_ids").size(), 257u);  // 512 − (256 − 1)
  EXPECT_EQ(lisa[0].at("labels").size(), 257u);
  write_file(dir_ / "config.json", R"({"mm_vision_tower": "openai/clip-vit-large-patch14-336"})");
  request_.max_length = 700;
  EXPECT_EQ(run({text})[0].at("input_ids").size(), 700u - 575u);
  std::filesystem::create_directory(dir_ / "clip");
  write_file(dir_ / "clip/config.json", R"({"image_size": 32, "patch_size": 8})");
  write_file(dir_ / "config.json", R"({"mm_vision_tower": "clip"})");
  EXPECT_EQ(image_patches_of(dir_.path()), 16);
  // A text that has its <im_start> already is not wrapped again.
  EXPECT_EQ(run({build_prompt(form, {"<im_start><image><im_end>\nhi", "ok"})}),
            run({build_prompt(form, {"<image>\nhi", "ok"})}));
}

TEST_F(RunTokenize, RefusesConversationsFlagsWithoutConversations) {
  const auto refused = [&](TokenizeRequest request, const std::string& flag) {
    write_file(request.inputs, R"(["a"])");
    try {
      run_tokenize(request);
      ADD_FAILURE() << flag << " was accepted";
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find(flag + " is for whole conversations"), std::string::npos);
    }
  };
  TokenizeRequest form = request_, length = request_, strict = request_;
  form.form = "llava_v1";
  length.max_length = 20;
  strict.strict_mpt = true;
  refused(form, "--template");
  refused(length, "--max_length");
  refused(strict, "--strict_mpt");
}

TEST_F(RunTokenize, RefusesTheImageTokenOfSingleTextsInConversations) {
  request_.conversations = request_.image_token = true;
  request_.form = "llava_v1";
  try {
    run({"a"});
    ADD_FAILURE() << "accepted";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("--image_token is for single texts"), std::string::npos) << error.what();
  }
}

TEST_F(RunTokenize, RefusesBrokenRequestsByName) {
  request_.conversations = true;
  EXPECT_THROW(run({"a"}), RequestError);  // no template
  request_.form = "llava_v1";
  add_seg();
  try {
    run({"no markers at all"});
    FAIL();
  } catch (const RequestError& e) {
    EXPECT_NE(std::string(e.what()).find("texts.json' item 0"), std::string::npos) << e.what();
  }
  EXPECT_THROW(run({{"a", 1}}), RequestError);
  EXPECT_THROW(run(json::array({1})), RequestError);
  request_.inputs = dir_ / "absent.json";
  EXPECT_THROW(run_tokenize(request_), RequestError);
}

}  // namespace
}  // namespace tessera::text
