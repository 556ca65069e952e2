#include "tessera/data/grouping.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

using nlohmann::json;
using Order = std::vector<std::int64_t>;

const json& golden() {
  static const auto read = json::parse(testing_support::read_file(std::filesystem::path(TESSERA_SOURCE_DIR) /
                                                                  "tests/golden/data/data/llava_sampler.json"));
  return read;
}

std::mt19937 generator(std::uint64_t seed) {
  return std::mt19937(static_cast<std::uint32_t>(seed));  // torch takes the low bits too
}

TEST(Grouping, PermutesAsTorchDoes) {
  for (const auto& one : golden().at("permutations")) {
    auto random = generator(one.at("seed").get<std::uint64_t>());
    const auto order = one.at("order").get<Order>();
    EXPECT_EQ(torch_permutation(static_cast<std::int64_t>(order.size()), random), order);
  }
  auto random = generator(7);
  EXPECT_EQ(torch_permutation(8, random), (Order{7, 0, 3, 4, 1, 5, 2, 6}));
}

TEST(Grouping, OrdersAsTheReferencesSamplerDoes) {
  ASSERT_GT(golden().at("cases").size(), 60U);
  for (const auto& one : golden().at("cases")) {
    const auto seed = one.at("seed").get<std::uint64_t>();
    auto within = generator(seed);
    auto random = generator(seed + 2);
    EXPECT_EQ(modality_grouped(one.at("lengths").get<Order>(), one.at("batch"), one.at("chunks"), within, random),
              one.at("order").get<Order>())
        << one;
  }
}

/// 23 items with two draws each, every third of text alone.
class GroupedStream : public ::testing::Test {
 protected:
  GroupedStream() {
    SourcePopulation source{"talk", "llava", {}};
    for (std::int64_t i = 0; i < 23; ++i) {
      source.items.push_back({2 * i, 2});
      for (int d = 0; d < 2; ++d) lengths_.push_back((i % 3 == 0 ? -1 : 1) * (5 + i * 7 % 11 + d));
    }
    sources_ = {source, {"other", "vqa", {{46, 1}}}};
    lengths_.push_back(9);
  }
  GroupedOrder order(std::uint64_t seed) const { return {sources_, {"llava"}, lengths_, 2, 3, seed}; }
  std::vector<SourcePopulation> sources_;
  Order lengths_;
};

TEST_F(GroupedStream, TakesEachItemOnceAnEpoch) {
  const auto one = order(1);
  EXPECT_EQ(one.epoch_samples(), 24);
  std::set<std::int64_t> draws_seen;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::map<std::int64_t, int> times;
    for (std::int64_t g = 0; g < 24; ++g) {
      const auto row = one.at(epoch * 24 + g);
      ASSERT_LT(row, 46);
      ++times[row / 2];
      draws_seen.insert(row);
    }
    EXPECT_EQ(times.size(), 23U);  // and one of them twice, to fill the last step
  }
  EXPECT_GT(draws_seen.size(), 30U);
}

TEST_F(GroupedStream, HasBatchesOfOneModality) {
  const auto one = order(5);
  int mixed = 0;
  for (std::int64_t g = 0; g < 24; g += 2)
    mixed +=
        (lengths_[static_cast<std::size_t>(one.at(g))] < 0) != (lengths_[static_cast<std::size_t>(one.at(g + 1))] < 0);
  EXPECT_LE(mixed, 3);  // the last megabatch of an epoch alone
}

TEST_F(GroupedStream, IsAFunctionOfSeedAndNumber) {
  const auto one = order(1);
  const auto again = order(1);
  const auto other = order(2);
  int equal = 0;
  for (std::int64_t g = 99; g >= 0; --g) {
    EXPECT_EQ(one.at(g), again.at(99 - (99 - g)));
    equal += one.at(g) == other.at(g);
  }
  EXPECT_LT(equal, 40);
  int epochs_equal = 0;
  for (std::int64_t g = 0; g < 24; ++g) epochs_equal += one.at(g) == one.at(g + 24);
  EXPECT_LT(epochs_equal, 12);
}

TEST_F(GroupedStream, RefusesAFamilyWithoutSamples) {
  EXPECT_THROW(GroupedOrder(sources_, {"sem_seg"}, lengths_, 2, 3, 1), RequestError);
}

}  // namespace
}  // namespace tessera::data
