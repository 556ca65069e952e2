#pragma once
/// bf16 and f16 to fp32 and back, rounding to nearest, ties to even; NaN stays NaN. Branch-free, so that loops over
/// them become vector code; without subnormal fp32 numbers on the way, so that a flush-to-zero mode does not matter.
#include <bit>
#include <cstdint>

namespace tessera::comm {

namespace half_detail {
inline std::uint32_t mask(bool condition) noexcept {
  return 0U - static_cast<std::uint32_t>(condition);
}
inline std::uint32_t select(std::uint32_t mask, std::uint32_t yes, std::uint32_t no) noexcept {
  return (yes & mask) | (no & ~mask);
}
}  // namespace half_detail

inline float float_of_bf16(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline std::uint16_t bf16_of_float(float value) noexcept {
  using namespace half_detail;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7fffU + ((bits >> 16) & 1U);
  const std::uint32_t is_nan = mask(static_cast<std::int32_t>(bits & 0x7fffffffU) > 0x7f800000);
  return static_cast<std::uint16_t>(select(is_nan, bits | 0x400000U, rounded) >> 16);
}

inline float float_of_f16(std::uint16_t bits) noexcept {
  using namespace half_detail;
  const std::uint32_t magnitude = (std::uint32_t{bits} & 0x7fffU) << 13;  // exponent and mantissa, bias still 15
  const std::uint32_t normal = magnitude + 0x38000000U;
  // A subnormal m * 2^-24 is (1 + m / 1024) * 2^-14 less 2^-14.
  const auto subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude + 0x38800000U) - 0x1p-14F);
  const std::uint32_t is_subnormal = mask(static_cast<std::int32_t>(magnitude) < 0x00800000);
  const std::uint32_t is_special = mask(static_cast<std::int32_t>(magnitude) >= 0x0f800000);  // infinity or NaN
  const std::uint32_t result = select(is_subnormal, subnormal, normal) + (is_special & 0x38000000U);
  return std::bit_cast<float>(result | (std::uint32_t{bits} & 0x8000U) << 16);
}

inline std::uint16_t f16_of_float(float value) noexcept {
  using namespace half_detail;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  const auto ordered = static_cast<std::int32_t>(magnitude);
  const std::uint32_t normal = (magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  // Adding 0.5 brings 2^-24 to the last place of the mantissa, and the adder rounds.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  const std::uint32_t finite = select(mask(ordered < 0x38800000), subnormal, normal);
  const std::uint32_t special = 0x7c00U | (mask(ordered > 0x7f800000) & 0x200U);
  const std::uint32_t result =
      select(mask(ordered >= 0x477ff000), special, finite);  // 65520 and above round to infinity
  return static_cast<std::uint16_t>(result | ((bits >> 16) & 0x8000U));
}

}  // namespace tessera::comm
