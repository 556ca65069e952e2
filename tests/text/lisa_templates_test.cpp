#include "tessera/text/lisa_templates.hpp"

#include <gtest/gtest.h>

#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

template <std::size_t N>
void expect_phrases(const std::array<std::string_view, N>& ours, const nlohmann::json& theirs) {
  ASSERT_EQ(ours.size(), theirs.size());
  for (std::size_t i = 0; i < N; ++i) {
    std::string phrase = theirs[i].get<std::string>();
    for (const std::string field : {"{class_name}", "{sent}"}) {
      if (const std::size_t at = phrase.find(field); at != std::string::npos) phrase.replace(at, field.size(), "{}");
    }
    EXPECT_EQ(ours[i], phrase);
  }
}

TEST(LisaTemplates, AreTheReferencesPhrases) {
  const nlohmann::json phrases = testing_support::read_golden("conversation_lisa").at("phrases");
  expect_phrases(kShortQuestions, phrases.at("SHORT_QUESTION_LIST"));
  expect_phrases(kLongQuestions, phrases.at("LONG_QUESTION_LIST"));
  expect_phrases(kExplanatoryQuestions, phrases.at("EXPLANATORY_QUESTION_LIST"));
  expect_phrases(kAnswers, phrases.at("ANSWER_LIST"));
}

TEST(LisaTemplates, FillTheirPlace) {
  EXPECT_EQ(fill(kShortQuestions[1], "left dog {}"), "<image>\nPlease segment the left dog {} in this image.");
  EXPECT_EQ(explanatory_question("Who eats?", 0),
            "<image>\nWho eats? Please output segmentation mask and explain why.");
  EXPECT_EQ(plain_question("Who eats?"), "<image>\nWho eats?");
  EXPECT_EQ(validation_question(" the Dog ", false),
            "<image>\n What is the Dog in this image? Please output segmentation mask.");
  EXPECT_EQ(validation_question("Who eats?", true), "<image>\n Who eats? Please output segmentation mask.");
}

TEST(LisaTemplates, LowerAsPythonDoes) {
  EXPECT_EQ(lower("The LEFT Dog"), "the left dog");
  EXPECT_EQ(lower("\xC3\x84\xC3\x96 \xD0\x9F\xD0\xA0"), "\xC3\xA4\xC3\xB6 \xD0\xBF\xD1\x80");
  EXPECT_EQ(lower("\xC4\xB0"), "i\xCC\x87");                                                 // İ
  EXPECT_EQ(lower("\xCE\x9F\xCE\x94\xCE\x9F\xCE\xA3"), "\xCE\xBF\xCE\xB4\xCE\xBF\xCF\x82");  // ΟΔΟΣ, final sigma
}

}  // namespace
}  // namespace tessera::text
