#include "tessera/data/order.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

SourcePopulation population(const std::string& name, const std::string& family, std::int64_t first, std::int64_t items,
                            std::int64_t draws = 1) {
  SourcePopulation source{name, family, {}};
  for (std::int64_t i = 0; i < items; ++i) source.items.push_back({first + i * draws, draws});
  return source;
}

const std::vector<std::string> kFamilies{"sem_seg", "refer_seg", "vqa", "reason_seg"};

std::vector<SourcePopulation> four_families() {
  return {population("a", "sem_seg", 0, 7), population("b", "sem_seg", 7, 70), population("c", "refer_seg", 77, 5),
          population("d", "vqa", 82, 3), population("e", "reason_seg", 85, 11, 4)};
}

TEST(SampleRates, TakesCommasAndDoubleBars) {
  const std::vector<double> expected{9, 3, 3, 1};
  EXPECT_EQ(parse_rates("9,3,3,1"), expected);
  EXPECT_EQ(parse_rates("9||3||3||1"), expected);
  EXPECT_EQ(parse_rates(" 9 || 3||3 ||1"), expected);
  EXPECT_EQ(parse_rates("0.5"), std::vector<double>{0.5});
}

TEST(SampleRates, RefusesWhatIsNoRate) {
  for (const char* text : {"", "9,,1", "9;3", "-1,2", "nan", "0,0", "1|2", "1e999"}) {
    EXPECT_THROW(parse_rates(text), RequestError) << text;
  }
}

TEST(Families, AreSplitAtDoubleBarsAndNamedOnce) {
  EXPECT_EQ(parse_families("sem_seg||refer_seg||vqa||reason_seg"), kFamilies);
  EXPECT_THROW(parse_families("vqa||vqa"), RequestError);
  EXPECT_THROW(parse_families("vqa||"), RequestError);
}

TEST(MixtureOrder, DrawsFamiliesByTheirRates) {
  const MixtureOrder order(four_families(), kFamilies, {9, 3, 3, 1}, 42);
  const int n = 40000;
  std::vector<int> seen(4);
  for (int g = 0; g < n; ++g) ++seen[order.family_at(g)];
  const double expected[] = {9 / 16.0, 3 / 16.0, 3 / 16.0, 1 / 16.0};
  for (int i = 0; i < 4; ++i) {
    const double sigma = std::sqrt(expected[i] * (1 - expected[i]) / n);
    EXPECT_NEAR(seen[i] / double(n), expected[i], 4 * sigma) << kFamilies[i];
  }
}

TEST(MixtureOrder, DrawsSourcesThenItemsThenDrawsUniformly) {
  const MixtureOrder order(four_families(), kFamilies, {9, 3, 3, 1}, 7);
  std::map<std::int64_t, int> rows;
  const int n = 60000;
  for (int g = 0; g < n; ++g) ++rows[order.at(g)];
  int small = 0;
  int large = 0;
  for (const auto& [row, count] : rows) {
    if (row < 7) small += count;
    if (row >= 7 && row < 77) large += count;
  }
  // Both semantic sets weigh the same though one is ten times the size of the other.
  EXPECT_NEAR(small / double(small + large), 0.5, 4 * 0.5 / std::sqrt(small + large));
  for (std::int64_t row = 85; row < 85 + 44; ++row) EXPECT_GT(rows[row], 0) << "draw never taken: " << row;
  EXPECT_EQ(rows.rbegin()->first, 85 + 43);
}

TEST(MixtureOrder, DependsOnSeedAndNumberAlone) {
  const MixtureOrder one(four_families(), kFamilies, {9, 3, 3, 1}, 1);
  const MixtureOrder again(four_families(), kFamilies, {9, 3, 3, 1}, 1);
  const MixtureOrder other(four_families(), kFamilies, {9, 3, 3, 1}, 2);
  int equal = 0;
  for (std::int64_t g = 999; g >= 0; --g) {  // asked backwards: no state
    EXPECT_EQ(one.at(g), again.at(g));
    equal += one.at(g) == other.at(g);
  }
  EXPECT_LT(equal, 200);
}

TEST(MixtureOrder, NeverDrawsAFamilyOfRateZero) {
  const MixtureOrder order(four_families(), kFamilies, {0, 1, 1, 0}, 3);
  for (std::int64_t g = 0; g < 2000; ++g) {
    const auto row = order.at(g);
    EXPECT_TRUE(row >= 77 && row < 85) << row;
  }
}

TEST(MixtureOrder, RefusesAFamilyWithoutSamplesAndOtherCounts) {
  EXPECT_THROW(MixtureOrder(four_families(), {"grounding"}, {1}, 0), RequestError);
  EXPECT_THROW(MixtureOrder(four_families(), kFamilies, {9, 3, 3}, 0), RequestError);
  EXPECT_NO_THROW(MixtureOrder(four_families(), {"vqa", "grounding"}, {1, 0}, 0));
}

}  // namespace
}  // namespace tessera::data
