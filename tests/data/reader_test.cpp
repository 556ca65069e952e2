// What holds for a Reader of any family, on the families that need no more than a folder.
#include "tessera/data/reader.hpp"

#include <gtest/gtest.h>

#include <set>

#include "data/toy.hpp"
#include "support/support.hpp"
#include "tessera/data/reason_seg.hpp"

namespace tessera::data {
namespace {

class ReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto train = dir_.path() / "reason_seg/ReasonSeg/train";
    for (const char* name : {"b", "a"}) {
      testing_support::write_file(train / (std::string(name) + ".jpg"), "not decoded when listing");
      testing_support::write_file(train / (std::string(name) + ".json"),
                                  R"({"text": ["the thing", "that one"], "is_sentence": false,
            "shapes": [{"label": "target", "points": [[2, 2], [20, 2], [20, 20]]}]})");
    }
    reader_ = reason_seg_training(dir_.path(), "ReasonSeg|train", {2, -1, 1.0});
  }
  testing_support::TempDir dir_;
  std::unique_ptr<Reader> reader_;
};

TEST_F(ReaderTest, ItemsHaveNamesOfTheirOwnInAnOrderTheDataSetDecides) {
  std::set<std::string> names;
  for (const auto& item : reader_->items()) names.insert(item.name);
  EXPECT_EQ(names.size(), 2U);
  EXPECT_EQ(reader_->items().size(), 2U);
  EXPECT_LT(reader_->items()[0].image, reader_->items()[1].image);
  EXPECT_EQ(reader_->family(), "reason_seg");
  EXPECT_TRUE(reader_->problems().empty());
}

TEST_F(ReaderTest, EqualDrawsGiveEqualSamplesAndEachDrawOne) {
  const auto make = [&] {
    std::vector<Choices> draws;
    for (int d = 0; d < 3; ++d) draws.push_back(choices_of(7, reader_->source(), reader_->items()[0].name, d));
    return reader_->make(0, {32, 32}, draws);
  };
  const auto first = make();
  const auto second = make();
  ASSERT_EQ(first.samples.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(first.samples[i].conversations.size(), 2U);
    EXPECT_EQ(first.samples[i].conversations[0].messages, second.samples[i].conversations[0].messages);
  }
}

TEST_F(ReaderTest, ABrokenItemThrowsAndItsNeighbourDoesNot) {
  testing_support::write_file(dir_.path() / "reason_seg/ReasonSeg/train/a.json", "{");
  reader_ = reason_seg_training(dir_.path(), "ReasonSeg|train", {2, -1, 1.0});
  std::vector<Choices> draws{choices_of(7, reader_->source(), "a", 0)};
  EXPECT_THROW(reader_->make(0, {32, 32}, draws), BrokenSample);
  std::vector<Choices> others{choices_of(7, reader_->source(), "b", 0)};
  EXPECT_NO_THROW(reader_->make(1, {32, 32}, others));
}

}  // namespace
}  // namespace tessera::data
