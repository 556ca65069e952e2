#include "tessera/core/random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>
#include <vector>

namespace tessera {
namespace {

// SplitMix64 from seed 0 and 1234567, as published with the algorithm: state += golden ratio, then the finaliser.
TEST(Random, MixesAsSplitMix64Does) {
  EXPECT_EQ(mix64(0), 0xe220a8397b1dcdafULL);
  EXPECT_EQ(mix64(0x9e3779b97f4a7c15ULL), 0x6e789e6aa1b965f4ULL);
  EXPECT_EQ(mix64(1234567), 6457827717110365317ULL);
}

TEST(Random, HashesNamesAsFnv1aDoes) {
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325ULL);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(hash_name("foobar"), 0x85944171f73967e8ULL);
}

TEST(Random, KeysDependOnTheirOrder) {
  EXPECT_NE(mix_keys(1, 2, 3), mix_keys(1, 3, 2));
  EXPECT_NE(mix_keys(1, 2), mix_keys(2, 1));
  EXPECT_EQ(mix_keys(7), 7U);
}

TEST(CounterStream, IsAPureFunctionOfKeyAndPosition) {
  const CounterStream one(5);
  const CounterStream same(5);
  const CounterStream other(6);
  EXPECT_EQ(one.bits(1000), same.bits(1000));
  EXPECT_NE(one.bits(1000), other.bits(1000));
  EXPECT_NE(one.bits(1000), one.bits(1001));
}

TEST(CounterStream, UniformStaysBelowOneWithTheRightMean) {
  const CounterStream stream(11);
  constexpr int n = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < n; ++i) {
    const float u = stream.uniform(i);
    ASSERT_GE(u, 0.0F);
    ASSERT_LT(u, 1.0F);
    sum += u;
    squares += static_cast<double>(u) * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);  // five standard errors
  EXPECT_NEAR(squares / n - (sum / n) * (sum / n), 1.0 / 12, 0.002);
}

TEST(CounterStream, NormalHasTheMomentsAndTailsOfANormal) {
  const CounterStream stream(12);
  constexpr int n = 100000;
  std::array<double, 5> moment{};
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    const double x = stream.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    for (int k = 1; k < 5; ++k) moment.at(k) += std::pow(x, k) / n;
    beyond_two += std::abs(x) > 2.0 ? 1 : 0;
  }
  EXPECT_NEAR(moment[1], 0.0, 0.016);
  EXPECT_NEAR(moment[2], 1.0, 0.025);
  EXPECT_NEAR(moment[3], 0.0, 0.07);
  EXPECT_NEAR(moment[4], 3.0, 0.16);
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, 0.0455, 0.0035);
}

TEST(RandomSequence, DrawsBelowCoverTheRangeEvenly) {
  RandomSequence random(3);
  constexpr int n = 70000;
  std::array<int, 7> counts{};
  for (int i = 0; i < n; ++i) ++counts.at(random.below(7));
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - n / 7.0) * (count - n / 7.0) / (n / 7.0);
  EXPECT_LT(chi_square, 27.9);  // 6 degrees of freedom, p = 0.0001
  EXPECT_EQ(random.below(1), 0U);
}

TEST(RandomSequence, StaysBelowALimitThatIsNoPowerOfTwo) {
  RandomSequence random(4);
  const std::uint64_t limit = (std::uint64_t{1} << 63) + 1;  // nearly every second draw is rejected
  for (int i = 0; i < 1000; ++i) ASSERT_LT(random.below(limit), limit);
}

TEST(RandomSequence, RepeatsFromTheSameKeyAndNeverRepeatsWithin) {
  RandomSequence a(9);
  RandomSequence b(9);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 10000; ++i) {
    const auto x = a.next();
    ASSERT_EQ(x, b.next());
    seen.insert(x);
  }
  EXPECT_EQ(seen.size(), 10000U);
}

}  // namespace
}  // namespace tessera
