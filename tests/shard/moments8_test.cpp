#include "tessera/shard/moments8.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "shard/optimizer_golden.hpp"

namespace tessera::shard {
namespace {

constexpr DynamicCode kBoth[] = {DynamicCode::with_sign, DynamicCode::without_sign};

CodedMoment room(std::int64_t n) {
  return {at::zeros({n}, at::kByte), at::zeros({(n + kMomentBlock - 1) / kMomentBlock}, at::kFloat)};
}

// Values of all magnitudes that a block holds beside its largest; block 2 is of zeros.
at::Tensor some_values(std::int64_t n, DynamicCode code) {
  at::Tensor out = at::zeros({n}, at::kFloat);
  auto* v = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    if (i / kMomentBlock == 2) continue;
    const auto whole = static_cast<float>((i * 7919 + 13) % 2003 - 1001);
    v[i] = std::ldexp(whole / 777.0F, -static_cast<int>(i % 26));
    if (code == DynamicCode::without_sign) v[i] = std::abs(v[i]);
  }
  return out;
}

int nearest_by_search(const at::Tensor& all, float x) {
  int best = 0;
  const auto* v = all.const_data_ptr<float>();
  for (int i = 1; i < 256; ++i) best = std::abs(x - v[i]) < std::abs(x - v[best]) ? i : best;
  return best;
}

TEST(Moments8, CodesAreBitsandbytesDynamicMaps) {
  const auto golden = golden::optimizers();
  EXPECT_TRUE(at::equal(values_of(DynamicCode::with_sign), golden.read("code.with_sign")));
  EXPECT_TRUE(at::equal(values_of(DynamicCode::without_sign), golden.read("code.without_sign")));
}

TEST(Moments8, EachValueGetsTheNearestCode) {
  for (const auto code : kBoth) {
    const std::int64_t n = 41 * kMomentBlock + 77;
    const at::Tensor values = some_values(n, code), all = values_of(code);
    const auto out = room(n);
    encode(values, code, out);
    for (std::int64_t i = 0; i < n; ++i) {
      const float scale = out.scales.const_data_ptr<float>()[i / kMomentBlock];
      const int want = scale == 0 ? 0 : nearest_by_search(all, values.const_data_ptr<float>()[i] * (1.0F / scale));
      ASSERT_EQ(static_cast<int>(out.codes.const_data_ptr<std::uint8_t>()[i]), want) << "value " << i;
    }
    EXPECT_EQ(out.scales.const_data_ptr<float>()[2], 0.0F);
  }
}

TEST(Moments8, EveryMiddleOfTwoCodesAndItsNeighboursAreTold) {
  for (const auto code : kBoth) {
    const at::Tensor all = values_of(code);
    const auto* v = all.const_data_ptr<float>();
    at::Tensor values = at::zeros({4 * kMomentBlock}, at::kFloat);
    auto* x = values.mutable_data_ptr<float>();
    for (int i = 0; i < 255; ++i) {
      const float middle = (v[i] + v[i + 1]) / 2;
      const float near[] = {middle, std::nextafter(middle, -2.0F), std::nextafter(middle, 2.0F), v[i]};
      for (int k = 0; k < 4; ++k) x[k * kMomentBlock + i] = near[k];
    }
    for (int k = 0; k < 4; ++k) x[k * kMomentBlock + 255] = 1.0F;  // the scale of each block
    const auto out = room(values.numel());
    encode(values, code, out);
    for (std::int64_t i = 0; i < values.numel(); ++i) {
      ASSERT_EQ(static_cast<int>(out.codes.const_data_ptr<std::uint8_t>()[i]), nearest_by_search(all, x[i])) << x[i];
    }
  }
}

// Of the signed code only where a block's largest is positive: it has a 1, but no -1.
TEST(Moments8, WhatIsDecodedIsEncodedAlike) {
  const std::int64_t n = 5 * kMomentBlock + 3;
  const auto once = room(n), twice = room(n);
  encode(some_values(n, DynamicCode::without_sign), DynamicCode::without_sign, once);
  encode(decode(once, DynamicCode::without_sign), DynamicCode::without_sign, twice);
  EXPECT_TRUE(at::equal(once.codes, twice.codes));
  EXPECT_TRUE(at::equal(once.scales, twice.scales));
}

TEST(Moments8, OperationsOfLibTorchGiveTheSame) {
  for (const auto code : kBoth) {
    const std::int64_t n = 9 * kMomentBlock + 100;
    const auto kernel = room(n), operations = room(n);
    const at::Tensor values = some_values(n, code);
    encode(values, code, kernel);
    encode_by_operations(values, code, operations);
    EXPECT_TRUE(at::equal(kernel.codes, operations.codes));
    EXPECT_TRUE(at::equal(kernel.scales, operations.scales));
    EXPECT_TRUE(at::equal(decode(kernel, code), decode_by_operations(operations, code)));
  }
}

TEST(Moments8, SmallTensorsAndEmbeddingsStayExact) {
  EXPECT_TRUE(keeps_exact_moments("layers.0.norm.weight", 4095));
  EXPECT_FALSE(keeps_exact_moments("layers.0.q_proj.weight", 4096));
  EXPECT_TRUE(keeps_exact_moments("model.embed_tokens.weight", 1 << 20));
  EXPECT_FALSE(keeps_exact_moments("lm_head.weight", 1 << 20));
}

}  // namespace
}  // namespace tessera::shard
