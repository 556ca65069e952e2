#include "tessera/io/tensor_source.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

struct ElemTraits {
  Elem type;
  std::string_view name;
  std::size_t size;
};
constexpr std::array<ElemTraits, 10> kElems{{{Elem::f32, "F32", 4},
                                             {Elem::f16, "F16", 2},
                                             {Elem::bf16, "BF16", 2},
                                             {Elem::f64, "F64", 8},
                                             {Elem::i64, "I64", 8},
                                             {Elem::i32, "I32", 4},
                                             {Elem::i16, "I16", 2},
                                             {Elem::i8, "I8", 1},
                                             {Elem::u8, "U8", 1},
                                             {Elem::boolean, "BOOL", 1}}};

float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float tiny = static_cast<float>(fraction) * 0x1.0p-24F;  // subnormal or zero
  return sign != 0 ? -tiny : tiny;
}

float bfloat_to_float(std::uint16_t value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

/// Reads with memcpy, since tensors in files need not be aligned.
template <class T, class Convert>
void convert_each(const void* from, std::int64_t count, float* out, Convert convert) {
  const char* at = static_cast<const char*>(from);
  for (std::int64_t i = 0; i < count; ++i, at += sizeof(T)) {
    T value;
    std::memcpy(&value, at, sizeof value);
    out[i] = convert(value);
  }
}

#ifdef __x86_64__
/// The processor's own conversion, eight at a time; exact, subnormals included, whatever the rounding modes in force.
__attribute__((target("avx,f16c"))) std::int64_t halves_by_f16c(const char* from, std::int64_t count, float* out) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from + 2 * i))));
  }
  return i;
}
#endif

void halves_to_floats(const void* from, std::int64_t count, float* out) {
  std::int64_t done = 0;
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) {
    done = halves_by_f16c(static_cast<const char*>(from), count, out);
  }
#endif
  convert_each<std::uint16_t>(static_cast<const char*>(from) + 2 * done, count - done, out + done, half_to_float);
}

template <class T>
void convert_plain(const void* from, std::int64_t count, float* out) {
  convert_each<T>(from, count, out, [](T value) { return static_cast<float>(value); });
}

}  // namespace

std::size_t size_of(Elem type) noexcept {
  return kElems[static_cast<std::size_t>(type)].size;
}
std::string_view name_of(Elem type) noexcept {
  return kElems[static_cast<std::size_t>(type)].name;
}

std::optional<Elem> elem_named(std::string_view name) noexcept {
  for (const auto& elem : kElems) {
    if (elem.name == name) return elem.type;
  }
  return std::nullopt;
}

std::optional<std::int64_t> checked_numel(const std::vector<std::int64_t>& shape) noexcept {
  constexpr std::int64_t kMost = INT64_MAX / 8;
  std::int64_t product = 1;
  bool zero = false;
  for (const std::int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      zero = true;
      continue;
    }
    if (product > kMost / size) return std::nullopt;
    product *= size;
  }
  return zero ? 0 : product;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void convert_to_f32(Elem type, const void* from, std::int64_t count, float* out) {
  switch (type) {
    case Elem::f32:
      std::memcpy(out, from, static_cast<std::size_t>(count) * sizeof(float));
      break;
    case Elem::f16:
      halves_to_floats(from, count, out);
      break;
    case Elem::bf16:
      convert_each<std::uint16_t>(from, count, out, bfloat_to_float);
      break;
    case Elem::f64:
      convert_plain<double>(from, count, out);
      break;
    case Elem::i64:
      convert_plain<std::int64_t>(from, count, out);
      break;
    case Elem::i32:
      convert_plain<std::int32_t>(from, count, out);
      break;
    case Elem::i16:
      convert_plain<std::int16_t>(from, count, out);
      break;
    case Elem::i8:
      convert_plain<std::int8_t>(from, count, out);
      break;
    case Elem::u8:
      convert_plain<std::uint8_t>(from, count, out);
      break;
    case Elem::boolean:
      convert_each<std::uint8_t>(from, count, out, [](std::uint8_t v) { return v != 0 ? 1.0F : 0.0F; });
      break;
  }
}

std::int64_t TensorInfo::numel() const noexcept {
  return checked_numel(shape).value_or(0);
}

const TensorInfo* TensorSource::find(std::string_view name) const {
  const auto& all = tensors();
  const auto it = std::lower_bound(all.begin(), all.end(), name,
                                   [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

void TensorSource::read_f32(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, float* out) const {
  if (tensor.type == Elem::f32) {
    read(tensor, begin, count, out);
    return;
  }
  constexpr std::int64_t kPiece = 1 << 17;  // elements: fits the second-level cache
  const auto raw = std::make_unique_for_overwrite<std::byte[]>(
      static_cast<std::size_t>(std::clamp<std::int64_t>(count, 0, kPiece)) * size_of(tensor.type));
  for (std::int64_t done = 0; done < count; done += kPiece) {
    const std::int64_t piece = std::min(kPiece, count - done);
    read(tensor, begin + done, piece, raw.get());
    convert_to_f32(tensor.type, raw.get(), piece, out + done);
  }
}

}  // namespace tessera::io
