#include "tessera/core/exact_sum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace tessera {
namespace {

double sum_of(const std::vector<double>& terms) {
  ExactSum sum;
  for (const double t : terms) sum.add(t);
  return sum.value();
}

std::vector<double> wide(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> fraction(-1, 1);
  std::uniform_int_distribution<int> exponent(-300, 300);
  std::vector<double> out(count);
  for (auto& v : out) v = std::ldexp(fraction(random), exponent(random));
  return out;
}

TEST(ExactSumTest, OneTermComesBackAsItIs) {
  for (const double v : {0.0, 1.0, -1.0, 0.1, -3e300, 5e-324, -2.5e-310, std::numeric_limits<double>::max(),
                         std::numeric_limits<double>::min(), 1e-7, 4294967296.0, 1.0 / 3}) {
    EXPECT_EQ(sum_of({v}), v);
  }
}

TEST(ExactSumTest, WhatFloatingPointLosesIsKept) {
  EXPECT_EQ(sum_of({1e300, 1.0, -1e300}), 1.0);
  EXPECT_EQ(sum_of({1e16, 1.0, 1.0, -1e16}), 2.0);
  EXPECT_EQ(sum_of({1.0, std::ldexp(1.0, -53), std::ldexp(1.0, -80)}), std::nextafter(1.0, 2.0));  // above the tie
  EXPECT_EQ(sum_of({1.0, std::ldexp(1.0, -53)}), 1.0);                                             // the tie, to even
  EXPECT_EQ(sum_of({std::ldexp(1.0, -1074), std::ldexp(1.0, -1074)}), std::ldexp(1.0, -1073));
  EXPECT_EQ(sum_of({-1e-320, 3e-320}), -1e-320 + 3e-320);
}

TEST(ExactSumTest, TheOrderDoesNotMatter) {
  auto terms = wide(5000, 3);
  const double first = sum_of(terms);
  for (unsigned seed = 0; seed < 5; ++seed) {
    std::shuffle(terms.begin(), terms.end(), std::mt19937(seed));
    EXPECT_EQ(sum_of(terms), first);
  }
}

TEST(ExactSumTest, IntegersAddUpExactly) {
  std::mt19937_64 random(5);
  std::int64_t want = 0;
  ExactSum sum;
  for (int i = 0; i < 100000; ++i) {
    const auto v = static_cast<std::int64_t>(random() >> 28) - (std::int64_t{1} << 35);
    want += v;
    sum.add(static_cast<double>(v));
  }
  EXPECT_EQ(sum.value(), static_cast<double>(want));
}

TEST(ExactSumTest, PartsOfAnyCutGiveTheWhole) {
  const auto terms = wide(1001, 9);
  const double whole = sum_of(terms);
  for (const std::size_t parts : {2U, 3U, 7U}) {
    ExactSum total;
    for (std::size_t p = 0; p < parts; ++p) {
      ExactSum part;
      for (std::size_t i = p; i < terms.size(); i += parts) part.add(terms[i]);
      total.add(part);
    }
    EXPECT_EQ(total.value(), whole);
  }
}

TEST(ExactSumTest, ATermThatIsNotFiniteShows) {
  EXPECT_TRUE(std::isnan(sum_of({1.0, std::numeric_limits<double>::infinity(), 2.0})));
  EXPECT_TRUE(std::isnan(sum_of({std::nan("")})));
}

}  // namespace
}  // namespace tessera
