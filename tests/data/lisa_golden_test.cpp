// Every family of LISA against the reference's own data set classes, given the same random choices.
// Source of the goldens: tests/golden/data/make_lisa_goldens.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "support/support.hpp"
#include "tessera/core/file.hpp"
#include "tessera/data/reason_seg.hpp"
#include "tessera/data/refer_seg.hpp"
#include "tessera/data/sem_seg.hpp"
#include "tessera/data/vqa.hpp"
#include "tessera/text/conversation.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kGolden = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/data";

const json& golden() {
  static const auto read = json::parse(testing_support::read_file(kGolden / "data/lisa_dataset.json"));
  return read;
}

std::unique_ptr<Reader> reader_of(const json& one) {
  const auto root = kGolden / "lisa_set";
  const auto family = one.at("family").get<std::string>();
  const auto set = one.at("set").get<std::string>();
  if (family == "sem_seg") return sem_seg_training(root, set, {});
  if (family == "refer_seg") return refer_seg_training(root, set, 3);
  if (family == "vqa") return vqa_training(root, set);
  ReasonSegConfig config;
  config.explanatory = one.at("explanatory").get<double>();
  return reason_seg_training(root, set, config);
}

class LisaFamily : public ::testing::TestWithParam<const char*> {};

TEST_P(LisaFamily, GivesTheReferencesTextsAndMasksForTheSameChoices) {
  const auto& form = text::find_template(golden().at("template").get<std::string>());
  int compared = 0;
  for (const auto& one : golden().at("cases")) {
    if (one.at("family") != GetParam()) continue;
    const auto reader = reader_of(one);
    ASSERT_TRUE(reader->problems().empty());
    const auto& items = reader->items();
    const auto image = one.at("image").get<std::string>();
    const auto item = std::find_if(items.begin(), items.end(), [&](const Item& i) { return i.image == image; });
    ASSERT_NE(item, items.end()) << one;
    const auto bytes = read_file(kGolden / "lisa_set" / image);
    const auto size = image::probe(image::bytes_of(bytes), image).oriented();
    std::vector<Choices> draws{Choices(one.at("choices").get<std::vector<std::int32_t>>())};
    const auto made = reader->make(item - items.begin(), size, draws);
    ASSERT_EQ(made.samples.size(), 1U);
    EXPECT_EQ(json(draws[0].taken()), one.at("choices")) << one;
    std::vector<std::string> texts;
    for (const auto& conversation : made.samples[0].conversations) {
      texts.push_back(text::build_prompt(form, conversation.messages));
    }
    EXPECT_EQ(json(texts), one.at("conversations"));
    std::vector<std::string> masks;
    for (const auto target : made.samples[0].targets) {
      masks.push_back(image::rle_to_string(made.masks.at(static_cast<std::size_t>(target))));
    }
    EXPECT_EQ(json(masks), one.at("masks")) << one;
    ++compared;
  }
  EXPECT_GT(compared, 1);
}

INSTANTIATE_TEST_SUITE_P(Families, LisaFamily, ::testing::Values("sem_seg", "refer_seg", "vqa", "reason_seg"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace tessera::data
