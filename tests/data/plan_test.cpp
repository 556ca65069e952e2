#include "tessera/data/plan.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/support.hpp"

namespace tessera::data {
namespace {

/// A reader of nothing but names.
class Named final : public Reader {
 public:
  Named(std::string source, std::vector<Item> items) : source_(std::move(source)), items_(std::move(items)) {}
  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return source_; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<std::filesystem::path> decided_by(std::int64_t) const override { return decided_by_; }
  ItemSamples make(std::int64_t, image::Size, std::span<Choices>) const override { return {}; }
  std::vector<std::filesystem::path> decided_by_;

 private:
  std::string source_;
  std::vector<Item> items_;
  std::vector<Problem> problems_;
};

std::vector<std::unique_ptr<Reader>> readers_of(std::int64_t images) {
  std::vector<Item> first;
  std::vector<Item> second;
  for (std::int64_t i = 0; i < images; ++i) first.push_back({"f" + std::to_string(i), std::to_string(i) + ".jpg"});
  for (std::int64_t i = 0; i < images; i += 2) second.push_back({"s" + std::to_string(i), std::to_string(i) + ".jpg"});
  second.push_back({"s", "only.jpg"});
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::make_unique<Named>("first", std::move(first)));
  readers.push_back(std::make_unique<Named>("second", std::move(second)));
  return readers;
}

std::vector<WorkUnit> units_of(std::int64_t images, std::int64_t bytes) {
  std::vector<WorkUnit> units;
  for (std::int64_t i = 0; i < images; ++i) units.push_back({{}, {std::to_string(i) + ".jpg"}, bytes, {{0, i}}});
  return units;
}

TEST(Plan, GroupsAllThatIsSaidOfAnImage) {
  const testing_support::TempDir dir;
  testing_support::write_file(dir / "2.jpg", "12345");
  const auto units = group_by_image(dir.path(), readers_of(4));
  ASSERT_EQ(units.size(), 5U);
  EXPECT_EQ(units[2].images, std::vector<std::string>{"2.jpg"});
  EXPECT_EQ(units[2].bytes, 5);
  ASSERT_EQ(units[2].items.size(), 2U);
  EXPECT_EQ(units[2].items[1].reader, 1);
  EXPECT_EQ(units[2].items[1].item, 1);
  EXPECT_EQ(units[1].items.size(), 1U);
  EXPECT_EQ(units[1].bytes, 0);  // missing: still planned, so that it is reported
  EXPECT_EQ(units[4].images, std::vector<std::string>{"only.jpg"});
}

TEST(Plan, GroupsByAllImagesOfAnItemAndLeavesTextAlone) {
  const testing_support::TempDir dir;
  testing_support::write_file(dir / "a.jpg", "123");
  testing_support::write_file(dir / "b.jpg", "4567");
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::make_unique<Named>(
      "talk",
      std::vector<Item>{{"0", "a.jpg"}, {"1", ""}, {"2", "a.jpg", {"b.jpg"}}, {"3", ""}, {"4", "./a.jpg", {"b.jpg"}}}));
  const auto units = group_by_image(dir.path(), readers);
  ASSERT_EQ(units.size(), 4U);
  EXPECT_TRUE(units[1].images.empty());
  EXPECT_EQ(units[1].items.size(), 1U);
  EXPECT_EQ(units[2].images, (std::vector<std::string>{"a.jpg", "b.jpg"}));
  EXPECT_EQ(units[2].bytes, 7);
  EXPECT_EQ(units[2].items.size(), 2U);
}

TEST(Plan, CutsIntoShardsOfNearlyEqualBytesInOrder) {
  const auto readers = readers_of(1000);
  const auto shards = plan_shards("train", units_of(1000, 96 << 10), {10 << 20}, "s", readers);
  ASSERT_EQ(shards.size(), 10U);
  EXPECT_EQ(shards[3].name, "train-00003-of-00010.h5");
  std::int64_t next = 0;
  for (const auto& shard : shards) {
    EXPECT_NEAR(static_cast<double>(shard.units.size()), 100, 1);
    for (const auto& unit : shard.units) EXPECT_EQ(unit.items[0].item, next++);
  }
  EXPECT_EQ(next, 1000);
}

TEST(Plan, LetsRanksShareASmallSet) {
  EXPECT_EQ(plan_shards("val", units_of(239, 1000), {1 << 30}, "s", readers_of(239)).size(), 8U);
  EXPECT_EQ(plan_shards("val", units_of(20, 1000), {1 << 30}, "s", readers_of(20)).size(), 2U);
  EXPECT_EQ(plan_shards("val", units_of(1, 1000), {1 << 30}, "s", readers_of(1)).size(), 1U);
  EXPECT_TRUE(plan_shards("val", {}, {1 << 30}, "s", readers_of(1)).empty());
}

TEST(Plan, GivesEveryShardAnImageThoughOneIsHuge) {
  auto units = units_of(6, 100);
  units[0].bytes = 100 << 20;
  const auto shards = plan_shards("train", units, {20 << 20}, "s", readers_of(6));
  ASSERT_EQ(shards.size(), 6U);
  for (const auto& shard : shards) EXPECT_EQ(shard.units.size(), 1U);
}

TEST(Plan, FingerprintsChangeWithTheAnnotationsAndTheSizesOfLabelMaps) {
  const testing_support::TempDir dir;
  auto reader = std::make_unique<Named>("set", std::vector<Item>{{"one", "1.jpg"}});
  reader->decided_by_ = {dir / "a.json", dir / "map.png"};
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::move(reader));
  const auto print = [&](const std::string& json, const std::string& png) {
    testing_support::write_file(dir / "a.json", json);
    testing_support::write_file(dir / "map.png", png);
    return plan_shards("train", group_by_image(dir.path(), readers), {1 << 20}, "s", readers).at(0).fingerprint;
  };
  EXPECT_EQ(print("text", "png"), print("text", "png"));
  const std::set<std::string> all{print("text", "png"), print("Text", "png"), print("text", "more")};
  EXPECT_EQ(all.size(), 3U);
}

TEST(Plan, FeaturesCountForTheSizeOfAShard) {
  EXPECT_EQ(plan_shards("train", units_of(100, 1000), {10 << 20, 1 << 20}, "s", readers_of(100)).size(), 11U);
}

TEST(Plan, FingerprintsChangeWithSettingsAndContent) {
  const auto print = [](std::int64_t bytes, const std::string& settings, std::int64_t images) {
    return plan_shards("train", units_of(images, bytes), {1 << 30}, settings, readers_of(images)).at(0).fingerprint;
  };
  EXPECT_EQ(print(10, "a", 3), print(10, "a", 3));
  const std::set<std::string> all{print(10, "a", 3), print(11, "a", 3), print(10, "b", 3), print(10, "a", 4)};
  EXPECT_EQ(all.size(), 4U);
}

}  // namespace
}  // namespace tessera::data
