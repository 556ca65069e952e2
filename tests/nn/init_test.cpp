#include "tessera/nn/init.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tessera::nn {
namespace {

std::vector<float> values(const ParamState& param, std::uint64_t seed, std::int64_t begin, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  fill_init(param, seed, begin, count, out.data());
  return out;
}

void describe(ParamState& param, const char* name, std::int64_t numel, Init init) {
  param.name = name;
  param.shape = {numel};
  param.init = init;
}

TEST(Init, ASliceIsTheSameSliceOfTheWhole) {
  ParamState param;
  describe(param, "w", 101, Init::normal(0.5));
  const auto whole = values(param, 7, 0, 101);
  const auto part = values(param, 7, 33, 41);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 33));
}

TEST(Init, DependsOnSeedAndName) {
  ParamState a, b;
  describe(a, "a", 16, Init::normal(1.0));
  describe(b, "b", 16, Init::normal(1.0));
  EXPECT_NE(values(a, 1, 0, 16), values(b, 1, 0, 16));
  EXPECT_NE(values(a, 1, 0, 16), values(a, 2, 0, 16));
}

TEST(Init, NormalHasItsDeviation) {
  ParamState param;
  describe(param, "w", 20000, Init::normal(0.3));
  double sum = 0, squares = 0;
  for (const float x : values(param, 1, 0, 20000)) {
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(sum / 20000, 0.0, 0.01);
  EXPECT_NEAR(std::sqrt(squares / 20000), 0.3, 0.01);
}

TEST(Init, FanInStaysWithinItsBoundAndFillsIt) {
  ParamState param;
  describe(param, "w", 5000, Init::fan_in(25));
  float lowest = 1, highest = -1;
  for (const float x : values(param, 1, 0, 5000)) {
    lowest = std::min(lowest, x);
    highest = std::max(highest, x);
  }
  EXPECT_GE(lowest, -0.2F);
  EXPECT_LT(highest, 0.2F);
  EXPECT_LT(lowest, -0.19F);
  EXPECT_GT(highest, 0.19F);
}

TEST(Init, OnesAndZeros) {
  ParamState param;
  describe(param, "w", 3, Init::ones());
  EXPECT_EQ(values(param, 1, 0, 3), (std::vector<float>{1, 1, 1}));
  param.init = Init::zeros();
  EXPECT_EQ(values(param, 1, 0, 3), (std::vector<float>{0, 0, 0}));
}

}  // namespace
}  // namespace tessera::nn
