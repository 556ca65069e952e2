// The two passes with AVX2. A sum of pixel * weight with 24-bit weights is taken as two sums with 16-bit parts of the
// weight (pmaddwd adds two products at once), put together modulo 2^32: the same integer as the scalar loop's.
#include <cstring>

#include "resample.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define TESSERA_AVX2 __attribute__((target("avx2")))

namespace tessera::image::resample {
namespace {

/// (high << 12) + low, rounded and shifted down to pixels of 32 bits; packing saturates them to 0…255.
TESSERA_AVX2 inline __m256i join(__m256i high, __m256i low) {
  const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << (kPrecision - 1))), kPrecision);
}

/// The sum of both halves, in the lower one.
TESSERA_AVX2 inline __m256i fold(__m256i sum) {
  return _mm256_castsi128_si256(_mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1)));
}

/// One output pixel of kRows rows. `rows[r]` points at the first tap; 16 bytes are read at each group of four taps.
template <int kRows>
TESSERA_AVX2 inline void pixel_of_rows(const std::uint8_t* const (&rows)[kRows], std::int32_t groups,
                                       const std::int16_t* high, const std::int16_t* low,
                                       std::uint8_t* const (&to)[kRows]) {
  // Bytes of four RGB pixels to 16-bit pairs (r0 r1)(g0 g1)(b0 b1)(0 0) | (r2 r3)(g2 g3)(b2 b3)(0 0).
  const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                          6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m256i pairs = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  __m256i sum_high[kRows], sum_low[kRows];
  for (int r = 0; r < kRows; ++r) sum_high[r] = sum_low[r] = _mm256_setzero_si256();
  for (std::int32_t g = 0; g < groups; ++g) {
    long long four_high, four_low;
    std::memcpy(&four_high, high + 4 * g, 8);
    std::memcpy(&four_low, low + 4 * g, 8);
    const __m256i weights_high = _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(four_high), pairs);
    const __m256i weights_low = _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(four_low), pairs);
    for (int r = 0; r < kRows; ++r) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + 12 * g));
      const __m256i taps = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), spread);
      sum_high[r] = _mm256_add_epi32(sum_high[r], _mm256_madd_epi16(taps, weights_high));
      sum_low[r] = _mm256_add_epi32(sum_low[r], _mm256_madd_epi16(taps, weights_low));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const __m128i pixel = _mm256_castsi256_si128(join(fold(sum_high[r]), fold(sum_low[r])));
    const __m128i words = _mm_packs_epi32(pixel, pixel);
    const auto rgb = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
    std::memcpy(to[r], &rgb, 2);
    to[r][2] = static_cast<std::uint8_t>(rgb >> 16);
  }
}

template <int kRows>
TESSERA_AVX2 void rows_at_once(const std::uint8_t* padded, std::int64_t padded_stride, const Weights& weights,
                               std::uint8_t* to) {
  const auto outputs = static_cast<std::int64_t>(weights.first.size());
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::uint8_t* rows[kRows];
    std::uint8_t* out[kRows];
    for (int r = 0; r < kRows; ++r) {
      rows[r] = padded + r * padded_stride + std::int64_t{weights.first[static_cast<std::size_t>(i)]} * 3;
      out[r] = to + (r * outputs + i) * 3;
    }
    const auto at = static_cast<std::size_t>(i * weights.stride);
    pixel_of_rows<kRows>(rows, (weights.count[static_cast<std::size_t>(i)] + 3) / 4, &weights.high[at],
                         &weights.low[at], out);
  }
}

}  // namespace

bool have_avx2() noexcept {
  static const bool have = __builtin_cpu_supports("avx2");
  return have;
}

void horizontal_avx2(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                     std::uint8_t* to) {
  // Rows are copied beside some slack, since groups of four taps read past the last pixel (with weight 0).
  constexpr std::int64_t kRows = 4, kSlack = 32;
  const std::int64_t stride = in_width * 3 + kSlack;
  std::vector<std::uint8_t> padded(static_cast<std::size_t>(stride * kRows));
  const auto outputs = static_cast<std::int64_t>(weights.first.size());
  for (std::int64_t y = 0; y < rows; y += kRows) {
    const std::int64_t together = rows - y < kRows ? rows - y : kRows;
    for (std::int64_t r = 0; r < together; ++r) {
      std::memcpy(padded.data() + r * stride, from + (y + r) * in_width * 3, static_cast<std::size_t>(in_width * 3));
    }
    if (together == kRows) {
      rows_at_once<kRows>(padded.data(), stride, weights, to + y * outputs * 3);
    } else {
      for (std::int64_t r = 0; r < together; ++r)
        rows_at_once<1>(padded.data() + r * stride, stride, weights, to + (y + r) * outputs * 3);
    }
  }
}

TESSERA_AVX2 void vertical_row_avx2(const std::uint8_t* from, std::int64_t from_stride, std::int64_t row_bytes,
                                    std::int32_t count, const std::int32_t* full, const std::int16_t* high,
                                    const std::int16_t* low, std::uint8_t* to) {
  std::int64_t x = 0;
  for (; x + 16 <= row_bytes; x += 16) {
    __m256i high0 = _mm256_setzero_si256(), high1 = high0, low0 = high0, low1 = high0;
    for (std::int32_t t = 0; t < count; t += 2) {
      const std::uint8_t* upper = from + t * from_stride + x;
      const std::uint8_t* lower =
          t + 1 < count ? upper + from_stride : upper;  // an odd last tap: its pair's weight is 0
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(upper));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lower));
      const __m256i pairs0 = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
      const __m256i pairs1 = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
      int two_high, two_low;
      std::memcpy(&two_high, high + t, 4);
      std::memcpy(&two_low, low + t, 4);
      const __m256i weights_high = _mm256_set1_epi32(two_high), weights_low = _mm256_set1_epi32(two_low);
      high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(pairs0, weights_high));
      high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(pairs1, weights_high));
      low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(pairs0, weights_low));
      low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(pairs1, weights_low));
    }
    // packs work within 128-bit halves; the permutation puts the four quarters back in order.
    const __m256i words =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(join(high0, low0), join(high1, low1)), 0b11011000);
    const __m128i pixels = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + x), pixels);
  }
  vertical_row_scalar(from, from_stride, x, row_bytes, count, full, to);
}

}  // namespace tessera::image::resample

#else  // no x86

namespace tessera::image::resample {
bool have_avx2() noexcept {
  return false;
}
void horizontal_avx2(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                     std::uint8_t* to) {
  horizontal_scalar(from, in_width, rows, weights, to);
}
void vertical_row_avx2(const std::uint8_t* from, std::int64_t from_stride, std::int64_t row_bytes, std::int32_t count,
                       const std::int32_t* full, const std::int16_t*, const std::int16_t*, std::uint8_t* to) {
  vertical_row_scalar(from, from_stride, 0, row_bytes, count, full, to);
}
}  // namespace tessera::image::resample

#endif
