#include "tessera/nn/rope.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/support.hpp"

namespace tessera::nn {
namespace {

using testing_support::distance;

RopeConfig config_of(std::int64_t dim) {
  RopeConfig config;
  config.dim = dim;
  return config;
}

TEST(Rope, GivenPositionsHaveTheAnglesOfTheirPlaces) {
  const RopeConfig config = config_of(6);
  const RopeTables all = rope_tables(config, 9, at::kFloat);
  const at::Tensor rows = at::tensor({0, 1, 2, 5, 6, 8}, at::kLong).view({2, 3});
  const RopeTables some = rope_tables_at(config, rows, at::kFloat);
  ASSERT_EQ(some.cos.sizes(), (at::IntArrayRef{2, 1, 3, 6}));
  EXPECT_EQ(distance(some.cos[0][0], all.cos.narrow(0, 0, 3)), 0.0);
  EXPECT_EQ(distance(some.sin[1][0][2], all.sin[8]), 0.0);
}

TEST(Rope, DynamicScalingActsBeyondTheTrainedLengthAlone) {
  RopeConfig plain = config_of(8), dynamic = config_of(8);
  dynamic.scaling = RopeConfig::Scaling::dynamic;
  dynamic.factor = 2.0;
  dynamic.max_positions = 16;
  EXPECT_LT(distance(rope_frequencies(dynamic, 16), rope_frequencies(plain, 16)), 1e-7);
  // Twice the length: base * (2*2 - 1)^(8/6).
  RopeConfig wanted = plain;
  wanted.theta = 10000.0 * std::pow(3.0, 8.0 / 6.0);
  EXPECT_LT(distance(rope_frequencies(dynamic, 32), rope_frequencies(wanted, 32)), 1e-7);
  const RopeTables a = rope_tables(dynamic, 32, at::kFloat);
  const RopeTables b = rope_tables_at(dynamic, at::arange(32, at::kLong), at::kFloat);
  EXPECT_EQ(distance(a.cos, b.cos), 0.0);
}

TEST(Rope, Llama3KeepsShortWavesAndDividesLongOnes) {
  RopeConfig plain = config_of(32), scaled = config_of(32);
  scaled.scaling = RopeConfig::Scaling::llama3;
  scaled.factor = 8.0;
  scaled.original_max_positions = 64;
  const at::Tensor before = rope_frequencies(plain, 1), after = rope_frequencies(scaled, 1);
  EXPECT_EQ(after[0].item<float>(), before[0].item<float>());
  EXPECT_NEAR(after[15].item<double>(), before[15].item<double>() / 8.0, 1e-9);
}

}  // namespace
}  // namespace tessera::nn
