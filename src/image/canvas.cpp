#include "canvas.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "font.hpp"

namespace tessera::image {
namespace {

constexpr double kBlankWidth = 3, kLetterGap = 2;  // in columns of the font's grid

struct Extent {
  int first = 0, last = 0;  // columns
};

Extent extent_of(std::string_view strokes) {
  Extent extent{9, 0};
  for (std::size_t i = 0; i < strokes.size(); ++i) {
    if (strokes[i] == ' ') continue;
    extent.first = std::min(extent.first, strokes[i] - '0');
    extent.last = std::max(extent.last, strokes[i] - '0');
    ++i;  // the row
  }
  return extent;
}

/// One character per code point: the bytes that continue a UTF-8 sequence are passed over.
bool continues(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

double advance_of(char c) {
  if (c == ' ') return kBlankWidth;
  const Extent extent = extent_of(glyph(c));
  return extent.last - extent.first + kLetterGap;
}

double distance(double px, double py, double x0, double y0, double x1, double y1) {
  const double dx = x1 - x0, dy = y1 - y0, square = dx * dx + dy * dy;
  const double t = square > 0 ? std::clamp(((px - x0) * dx + (py - y0) * dy) / square, 0.0, 1.0) : 0.0;
  return std::hypot(px - (x0 + t * dx), py - (y0 + t * dy));
}

}  // namespace

Canvas::Canvas(std::int64_t height, std::int64_t width, Colour background) : image_(height, width) {
  for (std::size_t i = 0; i < image_.rgb.size(); ++i) image_.rgb[i] = background[i % 3];
}

void Canvas::blend(std::int64_t y, std::int64_t x, Colour colour, double opacity) {
  std::uint8_t* pixel = image_.row(y) + x * 3;
  for (std::size_t c = 0; c < 3; ++c) {
    pixel[c] = static_cast<std::uint8_t>(std::lround(pixel[c] + (colour[c] - pixel[c]) * opacity));
  }
}

void Canvas::line(double x0, double y0, double x1, double y1, double width, Colour colour, double opacity) {
  const double reach = width / 2 + 1;
  const auto low = [reach](double a, double b, std::int64_t size) {
    return std::clamp<std::int64_t>(
        static_cast<std::int64_t>(std::floor(std::clamp(std::min(a, b) - reach, -1e6, 1e6))), 0, size);
  };
  const auto high = [reach](double a, double b, std::int64_t size) {
    return std::clamp<std::int64_t>(
        static_cast<std::int64_t>(std::ceil(std::clamp(std::max(a, b) + reach, -1e6, 1e6))) + 1, 0, size);
  };
  for (std::int64_t y = low(y0, y1, image_.height); y < high(y0, y1, image_.height); ++y) {
    for (std::int64_t x = low(x0, x1, image_.width); x < high(x0, x1, image_.width); ++x) {
      const double covered = width / 2 + 0.5 - distance(static_cast<double>(x), static_cast<double>(y), x0, y0, x1, y1);
      if (covered > 0) blend(y, x, colour, std::min(covered, 1.0) * opacity);
    }
  }
}

void Canvas::fill(std::int64_t top, std::int64_t left, std::int64_t height, std::int64_t width, Colour colour,
                  double opacity) {
  for (std::int64_t y = std::max<std::int64_t>(top, 0); y < std::min(top + height, image_.height); ++y) {
    for (std::int64_t x = std::max<std::int64_t>(left, 0); x < std::min(left + width, image_.width); ++x)
      blend(y, x, colour, opacity);
  }
}

double Canvas::strokes(double x, double y, std::string_view text, double size, Colour colour, bool upwards) {
  const double unit = size / kCapitalRows, width = std::max(1.0, size / 7.5);
  double column = 0;
  for (const char c : text) {
    if (continues(c)) continue;
    const std::string_view shape = glyph(c);
    const Extent extent = extent_of(shape);
    double last_x = 0, last_y = 0;
    bool started = false;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] == ' ') {
        started = false;
        continue;
      }
      const double along = (column + shape[i] - '0' - extent.first) * unit,
                   above = (shape[i + 1] - '0' - kBaseRow) * unit;
      const double at_x = upwards ? x - above : x + along, at_y = upwards ? y - along : y - above;
      if (started) line(last_x, last_y, at_x, at_y, width, colour);
      last_x = at_x, last_y = at_y, started = true;
      ++i;
    }
    column += advance_of(c);
  }
  return x + column * unit;
}

double Canvas::text(double x, double y, std::string_view text, double size, Colour colour) {
  return strokes(x, y, text, size, colour, false);
}

void Canvas::text_upwards(double x, double y, std::string_view text, double size, Colour colour) {
  strokes(x, y, text, size, colour, true);
}

void Canvas::paste(const Image& image, std::int64_t top, std::int64_t left) {
  const std::int64_t width = std::min(image.width, image_.width - left);
  for (std::int64_t y = 0; y < image.height && top + y < image_.height && width > 0; ++y) {
    std::memcpy(image_.row(top + y) + left * 3, image.row(y), static_cast<std::size_t>(width * 3));
  }
}

double text_width(std::string_view text, double size) {
  double columns = 0;
  for (const char c : text) columns += continues(c) ? 0 : advance_of(c);
  return std::max(0.0, columns - kLetterGap) * size / kCapitalRows;
}

}  // namespace tessera::image
