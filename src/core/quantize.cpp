#include "tessera/core/quantize.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "tessera/core/error.hpp"

namespace tessera {

namespace {

constexpr std::array<float, 16> kNf4{-1.0F,
                                     -0.6961928009986877F,
                                     -0.5250730514526367F,
                                     -0.39491748809814453F,
                                     -0.28444138169288635F,
                                     -0.18477343022823334F,
                                     -0.09105003625154495F,
                                     0.0F,
                                     0.07958029955625534F,
                                     0.16093020141124725F,
                                     0.24611230194568634F,
                                     0.33791524171829224F,
                                     0.44070982933044434F,
                                     0.5626170039176941F,
                                     0.7229568362236023F,
                                     1.0F};
// Sign and magnitude; the magnitudes stand in the order of their bits.
constexpr std::array<float, 16> kFp4{0.0F,
                                     0.005208333488553762F,
                                     0.6666666865348816F,
                                     1.0F,
                                     0.3333333432674408F,
                                     0.5F,
                                     0.1666666716337204F,
                                     0.25F,
                                     0.0F,
                                     -0.005208333488553762F,
                                     -0.6666666865348816F,
                                     -1.0F,
                                     -0.3333333432674408F,
                                     -0.5F,
                                     -0.1666666716337204F,
                                     -0.25F};
constexpr std::array<std::uint8_t, 16> kNf4Ascending{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr std::array<std::uint8_t, 16> kFp4Ascending{11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

// What a search and an expansion need, made once.
struct FourBit {
  std::array<float, 16> code;
  std::array<std::uint8_t, 16> ascending;  // codes by rising value
  std::array<float, 15> middle;            // between neighbours in that order
  std::array<std::array<float, 2>, 256> pair;

  FourBit(const std::array<float, 16>& values, const std::array<std::uint8_t, 16>& order)
      : code(values), ascending(order) {
    for (std::size_t i = 0; i < middle.size(); ++i) middle[i] = (code[order[i]] + code[order[i + 1]]) / 2;
    for (std::size_t byte = 0; byte < pair.size(); ++byte) pair[byte] = {code[byte >> 4], code[byte & 15]};
  }
};

const FourBit& four_bit(QuantKind kind) noexcept {
  static const FourBit nf4(kNf4, kNf4Ascending), fp4(kFp4, kFp4Ascending);
  return kind == QuantKind::fp4 ? fp4 : nf4;
}

constexpr int kGrid = 65536;  // places between -1 and 1 to which a scale is rounded before its code is looked up

// Point `at` of steps + 1 evenly spaced ones as torch.linspace has them: counted from the nearer end, rounded once.
float tenth_to_one(int at, int steps) noexcept {
  const double step = (1.0F - 0.1F) / static_cast<float>(steps);
  return static_cast<float>(at < (steps + 1) / 2 ? 0.1F + step * at : 1.0F - step * (steps - at));
}

struct EightBit {
  std::array<float, 256> code{};
  std::array<std::uint8_t, kGrid> nearest{};  // code of each place of the grid

  EightBit() {
    std::size_t n = 0;
    code[n++] = 0.0F;
    code[n++] = 1.0F;
    constexpr std::array<float, 7> kPowers{1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};
    for (std::size_t i = 0; i < kPowers.size(); ++i) {
      const int steps = 1 << i;  // means of neighbours of steps + 1 evenly spaced points on [0.1, 1]
      for (int k = 0; k < steps; ++k) {
        const float mean = (tenth_to_one(k, steps) + tenth_to_one(k + 1, steps)) / 2.0F;
        code[n++] = kPowers[i] * mean;
        code[n++] = -kPowers[i] * mean;
      }
    }
    std::sort(code.begin(), code.end());
    std::size_t at = 0;
    for (int i = 0; i < kGrid; ++i) {
      const float value = -1.0F + (2.0F * static_cast<float>(i)) / (kGrid - 1);
      while (at < 255 && 0.5F * (code[at] + code[at + 1]) < value) ++at;
      nearest[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(at);
    }
  }
};

const EightBit& eight_bit() noexcept {
  static const EightBit tables;
  return tables;
}

// Of the bits: an integer maximum is vector code, and what is not finite lies above all that is.
constexpr std::uint32_t kInfinity = 0x7f800000U;
std::uint32_t largest_magnitude(const float* values, std::int64_t count) noexcept {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffU));
  }
  return static_cast<std::uint32_t>(largest);
}

// As (v + 1) / 2 of the grid, rounded.
std::uint8_t nearest_scale(const EightBit& tables, float value) noexcept {
  const float bounded = std::clamp(value, -1.0F, 1.0F);
  const auto place = static_cast<std::uint32_t>((bounded + 1.0F) * 0.5F * (kGrid - 1) + 0.5F);
  return tables.nearest[std::min<std::uint32_t>(place, kGrid - 1)];
}

// To fp16 and back: nearest, ties to even; beyond its range infinite.
float half_rounded(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits & 0x80000000U, size = bits & 0x7fffffffU;
  if (size >= 0x477ff000U) return std::bit_cast<float>(sign | std::max(size, kInfinity));
  if (size < 0x38800000U) {  // subnormal in fp16: multiples of 2^-24, which the sum with 0.5 rounds to
    const float rounded = (std::bit_cast<float>(size) + 0.5F) - 0.5F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(rounded));
  }
  return std::bit_cast<float>(sign | ((size + 0xfffU + ((size >> 13) & 1U)) & ~0x1fffU));
}

}  // namespace

QuantKind quant_kind(std::string_view name) {
  for (const auto kind : {QuantKind::none, QuantKind::nf4, QuantKind::fp4, QuantKind::int8}) {
    if (name == name_of(kind)) return kind;
  }
  throw RequestError("'{}' is no way to quantise weights; choose nf4, fp4 or int8", name);
}

std::string_view name_of(QuantKind kind) noexcept {
  constexpr std::array<std::string_view, 4> kNames{"none", "nf4", "fp4", "int8"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::span<const float, 16> codebook(QuantKind kind) noexcept {
  return four_bit(kind).code;
}

std::span<const float, 256> dynamic_code() noexcept {
  return eight_bit().code;
}

bool quantize_blocks(QuantKind kind, const float* values, std::int64_t count, std::uint8_t* packed, float* absmax) {
  const FourBit& tables = four_bit(kind);
  constexpr float kLeast = 1e-38F;  // so that a block of zeros divides by something
  for (std::int64_t begin = 0; begin < count; begin += kQuantBlock, ++absmax) {
    const std::int64_t size = std::min(kQuantBlock, count - begin);
    const std::uint32_t largest = largest_magnitude(values + begin, size);
    if (largest >= kInfinity) return false;
    *absmax = std::bit_cast<float>(largest);
    std::array<float, kQuantBlock> scaled{};
    if (size == kQuantBlock) {
      const float inverse = 1.0F / std::max(*absmax, kLeast);
      for (std::size_t i = 0; i < scaled.size(); ++i)
        scaled[i] = values[begin + static_cast<std::int64_t>(i)] * inverse;
    } else {
      *absmax = std::max(*absmax, kLeast);
      for (std::int64_t i = 0; i < size; ++i) scaled[static_cast<std::size_t>(i)] = values[begin + i] / *absmax;
    }
    std::array<std::int32_t, kQuantBlock> place{};
    for (const float middle : tables.middle) {
      for (std::size_t i = 0; i < scaled.size(); ++i) place[i] += scaled[i] > middle ? 1 : 0;
    }
    for (std::int64_t i = 0; i < size; i += 2) {
      const auto at = static_cast<std::size_t>(i);
      const auto high = tables.ascending[static_cast<std::size_t>(place[at])];
      const auto low = tables.ascending[static_cast<std::size_t>(place[at + 1])];
      packed[(begin + i) / 2] = static_cast<std::uint8_t>(high << 4 | low);
    }
  }
  return true;
}

void dequantize_blocks(QuantKind kind, const std::uint8_t* packed, const float* absmax, std::int64_t count,
                       float* out) {
  const FourBit& tables = four_bit(kind);
  const std::int64_t whole = count / kQuantBlock;
  for (std::int64_t block = 0; block < whole; ++block, packed += kQuantBlock / 2, out += kQuantBlock) {
    const float scale = absmax[block];
    for (std::int64_t i = 0; i < kQuantBlock / 2; ++i) {
      const auto& pair = tables.pair[packed[i]];
      out[2 * i] = pair[0] * scale;
      out[2 * i + 1] = pair[1] * scale;
    }
  }
  for (std::int64_t i = 0; i < count - whole * kQuantBlock; ++i) {
    out[i] = tables.pair[packed[i / 2]][static_cast<std::size_t>(i % 2)] * absmax[whole];
  }
}

void quantize_scales(const float* centred, std::int64_t count, std::uint8_t* codes, float* absmax2) {
  const EightBit& tables = eight_bit();
  for (std::int64_t begin = 0; begin < count; begin += kNestedBlock, ++absmax2) {
    const std::int64_t end = std::min(begin + kNestedBlock, count);
    *absmax2 = std::bit_cast<float>(largest_magnitude(centred + begin, end - begin));
    if (*absmax2 == 0.0F) {
      std::fill(codes + begin, codes + end, std::uint8_t{0});
      continue;
    }
    const float inverse = 1.0F / *absmax2;
    for (std::int64_t i = begin; i < end; ++i) codes[i] = nearest_scale(tables, centred[i] * inverse);
  }
}

void dequantize_scales(const std::uint8_t* codes, const float* absmax2, float mean, std::int64_t begin,
                       std::int64_t count, float* out) {
  const EightBit& tables = eight_bit();
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = tables.code[codes[i]] * absmax2[(begin + i) / kNestedBlock] + mean;
  }
}

float row_scale(const float* values, std::int64_t count) noexcept {
  // Rounding keeps the order, so the largest one rounded is the largest of those rounded.
  return half_rounded(std::bit_cast<float>(largest_magnitude(values, count)));
}

void quantize_row(const float* values, std::int64_t count, float scale, std::int8_t* out) noexcept {
  constexpr float kToInteger = 0x1.8p23F;
  // 127 / scale as PyTorch divides a number by a tensor: two roundings.
  const float factor = scale == 0.0F ? 0.0F : 1.0F / scale * 127.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    // The sum leaves no place behind the point: nearest, ties to even.
    out[i] = static_cast<std::int8_t>((half_rounded(values[i]) * factor + kToInteger) - kToInteger);
  }
}

void dequantize_row(const std::int8_t* values, std::int64_t count, float scale, float* out) noexcept {
  constexpr float kStep = 7.874015718698502e-3F;  // 1 / 127, as bitsandbytes writes it
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(values[i]) * scale * kStep;
}

}  // namespace tessera
