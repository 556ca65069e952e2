#include "comm/reduce_local.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "comm/half.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

TEST(ReduceLocal, Bf16RoundTripsEveryNumber) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto b = static_cast<std::uint16_t>(bits);
    const float f = float_of_bf16(b);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(float_of_bf16(bf16_of_float(f))));
    } else {
      ASSERT_EQ(bf16_of_float(f), b);
    }
  }
}

TEST(ReduceLocal, F16IsExactForEveryNumberAndSubnormal) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<std::uint16_t>(bits);
    const int exponent = (h >> 10) & 31;
    const int mantissa = h & 1023;
    const float sign = (h & 0x8000) != 0 ? -1.0F : 1.0F;
    const float got = float_of_f16(h);
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(got));
      EXPECT_TRUE(std::isnan(float_of_f16(f16_of_float(got))));
      continue;
    }
    const float want = exponent == 31  ? std::numeric_limits<float>::infinity()
                       : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                       : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    ASSERT_EQ(got, sign * want) << bits;
    ASSERT_EQ(f16_of_float(got), h);
  }
}

TEST(ReduceLocal, RoundsToNearestTiesToEven) {
  EXPECT_EQ(bf16_of_float(1.0F + 0x1p-8F), bf16_of_float(1.0F));              // a tie goes to the even neighbour
  EXPECT_EQ(float_of_bf16(bf16_of_float(1.0F + 0x3p-8F)), 1.0F + 0x4p-8F);    // and here that is above
  EXPECT_EQ(float_of_bf16(bf16_of_float(1.0F + 0x1.2p-8F)), 1.0F + 0x1p-7F);  // above a tie
  EXPECT_TRUE(std::isinf(float_of_bf16(bf16_of_float(std::numeric_limits<float>::max()))));
  EXPECT_EQ(float_of_f16(f16_of_float(1.0F + 0x1p-11F)), 1.0F);
  EXPECT_EQ(float_of_f16(f16_of_float(1.0F + 0x3p-11F)), 1.0F + 0x1p-9F);
  EXPECT_EQ(float_of_f16(f16_of_float(65519.0F)), 65504.0F);
  EXPECT_TRUE(std::isinf(float_of_f16(f16_of_float(65520.0F))));
  EXPECT_EQ(float_of_f16(f16_of_float(0x1p-25F)), 0.0F);  // half of the smallest subnormal: a tie to zero
  EXPECT_EQ(float_of_f16(f16_of_float(0x1.8p-25F)), 0x1p-24F);
  EXPECT_EQ(float_of_f16(f16_of_float(-0x1.ff8p-15F)), -0x1.ff8p-15F);
  EXPECT_EQ(float_of_f16(f16_of_float(0x1.fffp-15F)), 0x1p-14F);  // a subnormal that rounds up to a normal
}

TEST(ReduceLocal, WritesOverOneOfItsSources) {
  std::vector<float> a(3001, 1.0F);
  std::vector<float> b(3001, 2.0F);
  const void* sources[] = {a.data(), b.data()};
  reduce_in_order(DType::f32, ReduceOp::sum, sources, b.data(), 3001);
  EXPECT_EQ(b[3000], 3.0F);
  EXPECT_EQ(a[3000], 1.0F);
}

TEST(ReduceLocal, IntegersWrapAndCompareSigned) {
  const std::int64_t a = std::numeric_limits<std::int64_t>::max();
  const std::int64_t b = -1;
  const void* sources[] = {&a, &b};
  std::int64_t out = 0;
  reduce_in_order(DType::i64, ReduceOp::max, sources, &out, 1);
  EXPECT_EQ(out, a);
  reduce_in_order(DType::i64, ReduceOp::min, sources, &out, 1);
  EXPECT_EQ(out, b);
  const std::int64_t one = 1;
  const void* wrap[] = {&a, &one};
  reduce_in_order(DType::i64, ReduceOp::sum, wrap, &out, 1);
  EXPECT_EQ(out, std::numeric_limits<std::int64_t>::min());
}

TEST(ReduceLocal, NaNWinsOnEitherSide) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float a[] = {nan, 1.0F};
  const float b[] = {1.0F, nan};
  const void* sources[] = {a, b};
  float out[2];
  for (const ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
    reduce_in_order(DType::f32, op, sources, out, 2);
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_TRUE(std::isnan(out[1]));
  }
}

TEST(ReduceLocal, RefusesRawBytes) {
  const char a = 1;
  const void* sources[] = {&a};
  char out = 0;
  EXPECT_THROW(reduce_in_order(DType::bytes, ReduceOp::sum, sources, &out, 1), RunError);
}

}  // namespace
}  // namespace tessera::comm
