#include "tessera/io/tensor_source.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tessera::io {
namespace {

/// Tensors in memory, as bytes.
class MemorySource : public TensorSource {
 public:
  void add(TensorInfo info, std::vector<std::byte> bytes) {
    infos_.push_back(std::move(info));
    bytes_.push_back(std::move(bytes));
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    const auto index = static_cast<std::size_t>(find(tensor.name) - infos_.data());
    const auto size = static_cast<std::int64_t>(size_of(tensor.type));
    std::memcpy(out, bytes_[index].data() + begin * size, static_cast<std::size_t>(count * size));
  }
  std::string where(const TensorInfo&) const override { return "memory"; }

 private:
  std::vector<TensorInfo> infos_;
  std::vector<std::vector<std::byte>> bytes_;
};

template <class T>
std::vector<float> converted(Elem type, const std::vector<T>& values) {
  std::vector<float> out(values.size());
  convert_to_f32(type, values.data(), static_cast<std::int64_t>(values.size()), out.data());
  return out;
}

TEST(Elem, NamesAndSizesMatchTheFormat) {
  for (const auto type : {Elem::f32, Elem::f16, Elem::bf16, Elem::f64, Elem::i64, Elem::i32, Elem::i16, Elem::i8,
                          Elem::u8, Elem::boolean}) {
    EXPECT_EQ(elem_named(name_of(type)), type);
  }
  EXPECT_EQ(size_of(Elem::bf16), 2U);
  EXPECT_EQ(size_of(Elem::i64), 8U);
  EXPECT_EQ(name_of(Elem::boolean), "BOOL");
  EXPECT_FALSE(elem_named("F8_E4M3").has_value());
}

TEST(ConvertToF32, IsExactForEveryHalf) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  const auto floats = converted(Elem::f16, all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int exponent = (all[i] >> 10) & 31;
    const int fraction = all[i] & 1023;
    const double sign = (all[i] & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(floats[i]), fraction != 0) << i;
      if (fraction == 0) {
        EXPECT_EQ(floats[i], sign * INFINITY) << i;
      }
    } else {
      const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(floats[i], static_cast<float>(sign * magnitude)) << i;
      EXPECT_EQ(std::signbit(floats[i]), sign < 0) << i;
    }
  }
}

TEST(ConvertToF32, TakesEveryOtherType) {
  EXPECT_EQ(converted<std::uint16_t>(Elem::bf16, {0x3f80, 0xc040, 0x7f80}),
            (std::vector<float>{1.0F, -3.0F, INFINITY}));
  EXPECT_EQ(converted<double>(Elem::f64, {0.1, -2.0}), (std::vector<float>{0.1F, -2.0F}));
  EXPECT_EQ(converted<std::int64_t>(Elem::i64, {-7, 1LL << 40}), (std::vector<float>{-7.0F, 0x1.0p40F}));
  EXPECT_EQ(converted<std::int8_t>(Elem::i8, {-128, 127}), (std::vector<float>{-128.0F, 127.0F}));
  EXPECT_EQ(converted<std::uint8_t>(Elem::u8, {255}), (std::vector<float>{255.0F}));
  EXPECT_EQ(converted<std::uint8_t>(Elem::boolean, {0, 1, 2}), (std::vector<float>{0.0F, 1.0F, 1.0F}));
}

TEST(TensorSource, ReadsF32InPiecesAndFindsByName) {
  constexpr std::int64_t kCount = 300'001;  // three pieces, the last not full
  std::vector<std::byte> bytes(static_cast<std::size_t>(kCount) * 2);
  for (std::int64_t i = 0; i < kCount; ++i) {
    const auto value = static_cast<std::int16_t>(i % 30000);
    std::memcpy(bytes.data() + i * 2, &value, 2);
  }
  MemorySource source;
  source.add({"a", Elem::i16, {kCount}}, bytes);
  source.add({"b", Elem::u8, {1}}, {std::byte{9}});
  EXPECT_EQ(source.find("c"), nullptr);
  EXPECT_EQ(source.find(""), nullptr);
  ASSERT_NE(source.find("b"), nullptr);
  std::vector<float> out(static_cast<std::size_t>(kCount) - 5);
  source.read_f32(*source.find("a"), 5, kCount - 5, out.data());
  for (std::int64_t i = 0; i < kCount - 5; ++i)
    ASSERT_EQ(out[static_cast<std::size_t>(i)], static_cast<float>((i + 5) % 30000));
}

TEST(CheckedNumel, RefusesNegativeAndOverflowingShapes) {
  EXPECT_EQ(checked_numel({}), 1);
  EXPECT_EQ(checked_numel({3, 0, 4}), 0);
  EXPECT_EQ(checked_numel({1 << 20, 1 << 20}), std::int64_t{1} << 40);
  EXPECT_FALSE(checked_numel({-1}).has_value());
  EXPECT_FALSE(checked_numel({0, -1}).has_value());
  EXPECT_FALSE(checked_numel({std::int64_t{1} << 32, std::int64_t{1} << 32}).has_value());
  EXPECT_FALSE(checked_numel({INT64_MAX, 0, 2}).has_value());
  EXPECT_EQ(shape_text({2, 3}), "[2, 3]");
}

}  // namespace
}  // namespace tessera::io
