#pragma once
/// The weights of one resizing pass and the two passes over interleaved 8-bit RGB.
#include <cstdint>
#include <vector>

#include "tessera/image/resize.hpp"

namespace tessera::image::resample {

/// Fractional bits of a weight: 8 bits of pixel and 2 of overshoot leave 22 of 32.
inline constexpr int kPrecision = 22;
/// A weight is split as high * 2^12 + low, 0 <= low < 2^12, so that 16-bit multiply-adds give the exact 32-bit sum.
inline constexpr int kLowBits = 12;

/// For output i: taps count[i] from input first[i]; weight t at full[i * stride + t], zero beyond count.
struct Weights {
  std::int64_t stride = 0;  ///< a multiple of 4
  std::vector<std::int32_t> first, count;
  std::vector<std::int32_t> full;
  std::vector<std::int16_t> high, low;
};

/// Weights of outputs begin … end-1 of a pass from in_size to out_size.
Weights make_weights(std::int64_t in_size, std::int64_t out_size, Filter filter, std::int64_t begin, std::int64_t end);

/// rows of [*, in_width, 3] at `from` -> [rows, outputs, 3] at `to`.
void horizontal(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                std::uint8_t* to);
/// Output row i from rows first[i] … of `from` (whose row `base` comes first in memory); row_bytes of each are used.
void vertical(const std::uint8_t* from, std::int64_t from_stride, std::int64_t base, std::int64_t row_bytes,
              const Weights& weights, std::uint8_t* to);

/// The vectorised forms; have_avx2() says whether this machine runs them.
bool have_avx2() noexcept;
void horizontal_avx2(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                     std::uint8_t* to);
void vertical_row_avx2(const std::uint8_t* from, std::int64_t from_stride, std::int64_t row_bytes, std::int32_t count,
                       const std::int32_t* full, const std::int16_t* high, const std::int16_t* low, std::uint8_t* to);
void horizontal_scalar(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                       std::uint8_t* to);
void vertical_row_scalar(const std::uint8_t* from, std::int64_t from_stride, std::int64_t begin, std::int64_t end,
                         std::int32_t count, const std::int32_t* full, std::uint8_t* to);

}  // namespace tessera::image::resample
