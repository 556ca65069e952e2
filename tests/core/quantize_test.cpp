// Against bitsandbytes (tests/golden/core/quantize.py), and what no golden shows.
#include "tessera/core/quantize.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/io/safetensors.hpp"

namespace tessera {
namespace {

const io::SafetensorsReader& golden() {
  static const io::SafetensorsReader file(TESSERA_SOURCE_DIR "/tests/golden/core/data/quantize.safetensors");
  return file;
}

template <class T>
std::vector<T> stored(const std::string& name) {
  const auto* info = golden().find(name);
  EXPECT_NE(info, nullptr) << name;
  if (info == nullptr) return {};
  EXPECT_EQ(io::size_of(info->type), sizeof(T)) << name;
  std::vector<T> out(static_cast<std::size_t>(info->numel()));
  golden().read(*info, 0, info->numel(), out.data());
  return out;
}

std::int64_t length(const auto& values) {
  return static_cast<std::int64_t>(values.size());
}

/// The same bits, but for the sign of a zero.
void expect_same(const std::vector<float>& have, const std::vector<float>& want, const std::string& what) {
  ASSERT_EQ(have.size(), want.size()) << what;
  for (std::size_t i = 0; i < have.size(); ++i) ASSERT_EQ(have[i], want[i]) << what << " at " << i;
}

const std::vector<std::string> kCases{"one", "seven", "short",    "block",  "more",
                                      "odd", "ties",  "extremes", "matrix", "uneven"};

struct Packed {
  std::vector<std::uint8_t> bytes;
  std::vector<float> absmax;
};

Packed pack(QuantKind kind, const std::vector<float>& values) {
  Packed out;
  out.bytes.resize((values.size() + 1) / 2);
  out.absmax.resize(static_cast<std::size_t>(quant_blocks(length(values))));
  EXPECT_TRUE(quantize_blocks(kind, values.data(), length(values), out.bytes.data(), out.absmax.data()));
  return out;
}

TEST(QuantizeTest, FourBitsAreThoseOfBitsandbytes) {
  for (const auto& name : kCases) {
    for (const auto kind : {QuantKind::nf4, QuantKind::fp4}) {
      const std::string what = name + "." + std::string(name_of(kind));
      const auto values = stored<float>(name + ".values");
      const auto have = pack(kind, values);
      EXPECT_EQ(have.bytes, stored<std::uint8_t>(what + ".packed")) << what;
      expect_same(have.absmax, stored<float>(what + ".absmax"), what + ".absmax");
      if (name == "uneven") continue;
      std::vector<float> back(values.size());
      dequantize_blocks(kind, have.bytes.data(), have.absmax.data(), length(values), back.data());
      expect_same(back, stored<float>(what + ".back"), what + ".back");
    }
  }
}

TEST(QuantizeTest, DoubleQuantisationIsThatOfBitsandbytes) {
  for (const auto& name : kCases) {
    const auto values = stored<float>(name + ".values");
    const auto have = pack(QuantKind::nf4, values);
    const float mean = stored<float>(name + ".mean").at(0);
    auto centred = have.absmax;
    for (auto& v : centred) v -= mean;
    std::vector<std::uint8_t> codes(centred.size());
    std::vector<float> absmax2(static_cast<std::size_t>(nested_blocks(length(centred))));
    quantize_scales(centred.data(), length(centred), codes.data(), absmax2.data());
    EXPECT_EQ(codes, stored<std::uint8_t>(name + ".codes")) << name;
    expect_same(absmax2, stored<float>(name + ".absmax2"), name + ".absmax2");
    std::vector<float> absmax(codes.size()), back(values.size());
    dequantize_scales(codes.data(), absmax2.data(), mean, 0, length(codes), absmax.data());
    dequantize_blocks(QuantKind::nf4, have.bytes.data(), absmax.data(), length(values), back.data());
    expect_same(back, stored<float>(name + ".nested_back"), name + ".nested_back");
  }
}

TEST(QuantizeTest, ScalesOfAnyRangeComeBackAsTheWholeDoes) {
  const auto codes = stored<std::uint8_t>("uneven.codes");
  const auto absmax2 = stored<float>("uneven.absmax2");
  ASSERT_GT(codes.size(), 256U);
  std::vector<float> whole(codes.size()), part(10);
  dequantize_scales(codes.data(), absmax2.data(), 0.5F, 0, length(codes), whole.data());
  dequantize_scales(codes.data() + 250, absmax2.data(), 0.5F, 250, 10, part.data());
  expect_same(part, {whole.begin() + 250, whole.begin() + 260}, "part");
}

TEST(QuantizeTest, TheEightBitCodeIsThatOfBitsandbytes) {
  const auto want = stored<float>("code");
  expect_same({dynamic_code().begin(), dynamic_code().end()}, want, "code");
}

TEST(QuantizeTest, RowsInEightBitsAreThoseOfBitsandbytes) {
  for (const std::string name : {"matrix", "uneven"}) {
    const auto values = stored<float>(name + ".values");
    const auto scales = stored<float>(name + ".int8.scales");
    const auto want = stored<std::int8_t>(name + ".int8.values");
    const std::size_t columns = values.size() / scales.size();
    std::vector<std::int8_t> have(values.size());
    std::vector<float> back(values.size());
    for (std::size_t row = 0; row < scales.size(); ++row) {
      const auto at = row * columns;
      const float scale = row_scale(values.data() + at, static_cast<std::int64_t>(columns));
      ASSERT_EQ(scale, scales[row]) << name << " row " << row;
      quantize_row(values.data() + at, static_cast<std::int64_t>(columns), scale, have.data() + at);
      dequantize_row(have.data() + at, static_cast<std::int64_t>(columns), scale, back.data() + at);
    }
    EXPECT_EQ(have, want) << name;
    if (name == "matrix") expect_same(back, stored<float>(name + ".int8.back"), name + ".back");
  }
}

TEST(QuantizeTest, ARowOfZerosStaysZero) {
  const std::vector<float> values(5, 0.0F);
  std::vector<std::int8_t> have(5, 1);
  EXPECT_EQ(row_scale(values.data(), 5), 0.0F);
  quantize_row(values.data(), 5, 0.0F, have.data());
  EXPECT_EQ(have, std::vector<std::int8_t>(5, 0));
}

TEST(QuantizeTest, WhatIsNotFiniteIsRefused) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {kInf, -kInf, std::nanf("")}) {
    std::vector<float> values(130, 0.25F), absmax(3);
    std::vector<std::uint8_t> bytes(65);
    values[100] = bad;
    EXPECT_FALSE(quantize_blocks(QuantKind::nf4, values.data(), 130, bytes.data(), absmax.data()));
    EXPECT_FALSE(std::isfinite(row_scale(values.data(), 130)));
  }
  const float beyond_fp16 = 70000;
  EXPECT_FALSE(std::isfinite(row_scale(&beyond_fp16, 1)));
}

TEST(QuantizeTest, NamesGoBothWaysAndOthersAreRefused) {
  for (const std::string name : {"none", "nf4", "fp4", "int8"}) EXPECT_EQ(name_of(quant_kind(name)), name);
  EXPECT_THROW(quant_kind("nf5"), RequestError);
}

}  // namespace
}  // namespace tessera
