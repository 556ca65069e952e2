#include "comm/reduce_local.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "tessera/core/error.hpp"

namespace tessera::comm {

float float_of_bf16(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

std::uint16_t bf16_of_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

float float_of_f16(std::uint16_t bits) noexcept {
  // Exponent and mantissa moved into place are too small by 2^112; the product also normalises subnormals.
  const std::uint32_t magnitude = (std::uint32_t{bits} & 0x7fffU) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;
  const std::uint32_t special =
      (bits & 0x7c00U) == 0x7c00U ? magnitude | 0x7f800000U : std::bit_cast<std::uint32_t>(scaled);
  return std::bit_cast<float>(special | (std::uint32_t{bits} & 0x8000U) << 16);
}

std::uint16_t f16_of_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  // Normal: drop 13 bits with rounding and rebias. Subnormal: adding 0.5 aligns the mantissa, the adder rounds.
  const std::uint32_t normal = (magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  const std::uint32_t special = magnitude > 0x7f800000U ? 0x7e00U : 0x7c00U;
  const std::uint32_t finite = magnitude < 0x38800000U ? subnormal : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x477ff000U ? special : finite));
}

namespace {

struct F32 {
  using Stored = float;
  using Acc = float;
  static Acc load(Stored v) { return v; }
  static Stored store(Acc v) { return v; }
};
struct F64 {
  using Stored = double;
  using Acc = double;
  static Acc load(Stored v) { return v; }
  static Stored store(Acc v) { return v; }
};
struct I64 {  // unsigned, so that sums wrap around; compared as signed
  using Stored = std::uint64_t;
  using Acc = std::uint64_t;
  static Acc load(Stored v) { return v; }
  static Stored store(Acc v) { return v; }
};
struct Bf16 {
  using Stored = std::uint16_t;
  using Acc = float;
  static Acc load(Stored v) { return float_of_bf16(v); }
  static Stored store(Acc v) { return bf16_of_float(v); }
};
struct F16 {
  using Stored = std::uint16_t;
  using Acc = float;
  static Acc load(Stored v) { return float_of_f16(v); }
  static Stored store(Acc v) { return f16_of_float(v); }
};

template <ReduceOp op, class T>
T combine(T a, T b) {
  if constexpr (op == ReduceOp::sum) {
    return a + b;
  } else if constexpr (std::is_same_v<T, std::uint64_t>) {
    const auto x = static_cast<std::int64_t>(a);
    const auto y = static_cast<std::int64_t>(b);
    return static_cast<T>(op == ReduceOp::max ? std::max(x, y) : std::min(x, y));
  } else {  // a NaN on either side wins
    if constexpr (op == ReduceOp::max) return (a > b || a != a) ? a : b;
    return (a < b || a != a) ? a : b;
  }
}

template <class Format, ReduceOp op>
void reduce(std::span<const void* const> sources, void* out, std::int64_t count) {
  using Stored = typename Format::Stored;
  using Acc = typename Format::Acc;
  constexpr std::int64_t kBlock = 1024;  // the accumulators stay in the first-level cache
  alignas(64) std::array<Acc, kBlock> acc;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, count - begin);
    const auto* first = static_cast<const Stored*>(sources[0]) + begin;
    for (std::int64_t i = 0; i < n; ++i) acc[static_cast<std::size_t>(i)] = Format::load(first[i]);
    for (const void* source : sources.subspan(1)) {
      const auto* next = static_cast<const Stored*>(source) + begin;
      for (std::int64_t i = 0; i < n; ++i) {
        Acc& a = acc[static_cast<std::size_t>(i)];
        a = combine<op, Acc>(a, Format::load(next[i]));
      }
    }
    auto* to = static_cast<Stored*>(out) + begin;
    for (std::int64_t i = 0; i < n; ++i) to[i] = Format::store(acc[static_cast<std::size_t>(i)]);
  }
}

template <class Format>
void dispatch(ReduceOp op, std::span<const void* const> sources, void* out, std::int64_t count) {
  switch (op) {
    case ReduceOp::sum:
      return reduce<Format, ReduceOp::sum>(sources, out, count);
    case ReduceOp::max:
      return reduce<Format, ReduceOp::max>(sources, out, count);
    case ReduceOp::min:
      return reduce<Format, ReduceOp::min>(sources, out, count);
  }
}

}  // namespace

void reduce_in_order(DType type, ReduceOp op, std::span<const void* const> sources, void* out, std::int64_t count) {
  switch (type) {
    case DType::f32:
      return dispatch<F32>(op, sources, out, count);
    case DType::f64:
      return dispatch<F64>(op, sources, out, count);
    case DType::bf16:
      return dispatch<Bf16>(op, sources, out, count);
    case DType::f16:
      return dispatch<F16>(op, sources, out, count);
    case DType::i64:
      return dispatch<I64>(op, sources, out, count);
    case DType::bytes:
      break;
  }
  throw RunError("comm: raw bytes cannot be reduced");
}

}  // namespace tessera::comm
