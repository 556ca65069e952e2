#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera::image::resample {
namespace {

double sinc(double x) {
  return x == 0.0 ? 1.0 : std::sin(x * std::numbers::pi) / (x * std::numbers::pi);
}

/// The filter's value at x >= 0. The order of operations is part of the contract: it decides last bits of the weights.
double kernel(Filter filter, double x) {
  constexpr double a = -0.5;
  switch (filter) {
    case Filter::bilinear:
      return x < 1.0 ? 1.0 - x : 0.0;
    case Filter::bicubic:
      if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
      return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
    case Filter::hamming:  // with single-precision constants, as there
      if (x == 0.0) return 1.0;
      if (x >= 1.0) return 0.0;
      x *= std::numbers::pi;
      return std::sin(x) / x * (0.54F + 0.46F * std::cos(x));
    case Filter::lanczos:
      return x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    default:
      return 0.0;
  }
}

double value(Filter filter, double x) {
  if (filter == Filter::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  return kernel(filter, std::abs(x));
}

double support_of(Filter filter) {
  switch (filter) {
    case Filter::box:
      return 0.5;
    case Filter::bicubic:
      return 2.0;
    case Filter::lanczos:
      return 3.0;
    default:
      return 1.0;
  }
}

std::int32_t to_fixed(double weight) {
  const double scaled = weight * (1 << kPrecision);
  return static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

std::uint8_t to_pixel(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255));
}

}  // namespace

Weights make_weights(std::int64_t in_size, std::int64_t out_size, Filter filter, std::int64_t begin, std::int64_t end) {
  const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
  const double filter_scale = std::max(scale, 1.0);
  const double support = support_of(filter) * filter_scale;
  const double inverse = 1.0 / filter_scale;
  const auto outputs = static_cast<std::size_t>(end - begin);

  Weights weights;
  weights.stride = (static_cast<std::int64_t>(std::ceil(support)) * 2 + 1 + 3) / 4 * 4;
  weights.first.resize(outputs);
  weights.count.resize(outputs);
  weights.full.assign(outputs * static_cast<std::size_t>(weights.stride), 0);
  std::vector<double> taps(static_cast<std::size_t>(weights.stride));
  for (std::size_t i = 0; i < outputs; ++i) {
    const double center = (static_cast<double>(begin) + static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const auto last = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), in_size);
    double sum = 0.0;
    for (std::int64_t x = first; x < last; ++x) {
      const double w = value(filter, (static_cast<double>(x) - center + 0.5) * inverse);
      taps[static_cast<std::size_t>(x - first)] = w;
      sum += w;
    }
    weights.first[i] = static_cast<std::int32_t>(first);
    weights.count[i] = static_cast<std::int32_t>(last - first);
    std::int32_t* fixed = &weights.full[i * static_cast<std::size_t>(weights.stride)];
    for (std::int64_t t = 0; t < last - first; ++t) {
      const double w = taps[static_cast<std::size_t>(t)];
      fixed[t] = to_fixed(sum != 0.0 ? w / sum : w);
    }
  }
  weights.high.reserve(weights.full.size());
  weights.low.reserve(weights.full.size());
  for (const std::int32_t w : weights.full) {
    weights.high.push_back(static_cast<std::int16_t>(w >> kLowBits));
    weights.low.push_back(static_cast<std::int16_t>(w & ((1 << kLowBits) - 1)));
  }
  return weights;
}

void horizontal_scalar(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                       std::uint8_t* to) {
  for (std::int64_t y = 0; y < rows; ++y, from += in_width * 3) {
    for (std::size_t i = 0; i < weights.first.size(); ++i, to += 3) {
      const std::uint8_t* pixel = from + std::int64_t{weights.first[i]} * 3;
      const std::int32_t* w = &weights.full[i * static_cast<std::size_t>(weights.stride)];
      std::int32_t red = 1 << (kPrecision - 1), green = red, blue = red;
      for (std::int32_t t = 0; t < weights.count[i]; ++t, pixel += 3) {
        red += pixel[0] * w[t];
        green += pixel[1] * w[t];
        blue += pixel[2] * w[t];
      }
      to[0] = to_pixel(red), to[1] = to_pixel(green), to[2] = to_pixel(blue);
    }
  }
}

void vertical_row_scalar(const std::uint8_t* from, std::int64_t from_stride, std::int64_t begin, std::int64_t end,
                         std::int32_t count, const std::int32_t* full, std::uint8_t* to) {
  for (std::int64_t x = begin; x < end; ++x) {
    std::int32_t sum = 1 << (kPrecision - 1);
    for (std::int32_t t = 0; t < count; ++t) sum += from[t * from_stride + x] * full[t];
    to[x] = to_pixel(sum);
  }
}

void horizontal(const std::uint8_t* from, std::int64_t in_width, std::int64_t rows, const Weights& weights,
                std::uint8_t* to) {
  (have_avx2() ? horizontal_avx2 : horizontal_scalar)(from, in_width, rows, weights, to);
}

void vertical(const std::uint8_t* from, std::int64_t from_stride, std::int64_t base, std::int64_t row_bytes,
              const Weights& weights, std::uint8_t* to) {
  const bool avx2 = have_avx2();
  for (std::size_t i = 0; i < weights.first.size(); ++i, to += row_bytes) {
    const std::uint8_t* rows = from + (weights.first[i] - base) * from_stride;
    const std::size_t at = i * static_cast<std::size_t>(weights.stride);
    if (avx2) {
      vertical_row_avx2(rows, from_stride, row_bytes, weights.count[i], &weights.full[at], &weights.high[at],
                        &weights.low[at], to);
    } else {
      vertical_row_scalar(rows, from_stride, 0, row_bytes, weights.count[i], &weights.full[at], to);
    }
  }
}

}  // namespace tessera::image::resample
