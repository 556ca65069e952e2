#include "tessera/data/choices.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

TEST(Choices, AreAFunctionOfSeedNamesAndDraw) {
  const auto first = [](std::uint64_t seed, std::string_view source, std::string_view item, std::int64_t draw) {
    auto choices = choices_of(seed, source, item, draw);
    return choices.pick(1 << 30);
  };
  EXPECT_EQ(first(1, "a", "b", 2), first(1, "a", "b", 2));
  const std::set<std::int64_t> all{first(1, "a", "b", 2), first(2, "a", "b", 2), first(1, "c", "b", 2),
                                   first(1, "a", "c", 2), first(1, "a", "b", 3)};
  EXPECT_EQ(all.size(), 5U);
}

TEST(Choices, RecordedOnesGiveTheSameDecisionsAgain) {
  auto original = choices_of(5, "source", "item", 0);
  const auto several = original.pick_several(6, 3);
  const auto yes = original.chance(0.4);
  const auto one = original.pick(9);
  Choices again(original.taken());
  EXPECT_EQ(again.pick_several(6, 3), several);
  EXPECT_EQ(again.chance(0.4), yes);
  EXPECT_EQ(again.pick(9), one);
  EXPECT_THROW(again.pick(2), RunError);
}

TEST(Choices, ForcedOnesMustFit) {
  Choices forced(std::vector<std::int32_t>{4, -1});
  EXPECT_THROW(forced.pick(4), RunError);
}

TEST(Choices, PickSeveralTakesEachOnceAndAnyOrder) {
  std::map<std::vector<std::int64_t>, int> seen;
  for (std::int64_t draw = 0; draw < 3000; ++draw) {
    auto choices = choices_of(11, "s", "i", draw);
    auto picked = choices.pick_several(4, 2);
    ASSERT_EQ(picked.size(), 2U);
    ASSERT_NE(picked[0], picked[1]);
    ++seen[picked];
  }
  ASSERT_EQ(seen.size(), 12U);
  for (const auto& [picked, count] : seen) EXPECT_NEAR(count, 250, 5 * 16) << picked[0] << picked[1];
  auto choices = choices_of(11, "s", "i", 0);
  EXPECT_EQ(choices.pick_several(2, 5).size(), 2U);
}

TEST(Choices, ChanceFollowsItsProbability) {
  auto choices = choices_of(3, "s", "i", 0);
  int yes = 0;
  for (int i = 0; i < 10000; ++i) yes += choices.chance(0.1) ? 1 : 0;
  EXPECT_NEAR(yes, 1000, 5 * 30);
  EXPECT_TRUE(choices.chance(1.0));
  EXPECT_FALSE(choices.chance(0.0));
}

}  // namespace
}  // namespace tessera::data
