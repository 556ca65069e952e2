#pragma once
/// Binary masks and the rasterising of polygons, to the pixels that OpenCV draws.
///
/// Source: LISA utils/data_processing.py (shapes of a ReasonSeg file, cv2.polylines + cv2.fillPoly); OpenCV
/// modules/imgproc/src/drawing.cpp (behaviour: even-odd fill in 16.16 fixed point plus an 8-connected outline).
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/image/image.hpp"

namespace tessera::image {

/// Row-major [height, width]; 0 is outside, 1 inside (ReasonSeg labels also use 255 for "ignore").
struct Mask {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> data;

  Mask() = default;
  Mask(std::int64_t h, std::int64_t w) : height(h), width(w), data(static_cast<std::size_t>(h * w)) {}
  Size size() const noexcept { return {height, width}; }
  std::uint8_t* row(std::int64_t y) noexcept { return data.data() + y * width; }
  const std::uint8_t* row(std::int64_t y) const noexcept { return data.data() + y * width; }
  /// Pixels that are not 0.
  std::int64_t area() const noexcept;
  friend bool operator==(const Mask&, const Mask&) = default;
};

struct Point {
  double x = 0;
  double y = 0;
};

/// What a reader demands of a polygon before it is drawn; throws RequestError that begins with `label` when it has
/// fewer than three points, a coordinate that is no finite 32-bit number, or no part inside the image.
void check_polygon(std::span<const Point> points, Size size, std::string_view label);

/// Draws outline and inside of one polygon with `value`; points are truncated towards 0. One or two points give a dot
/// or a line. Throws RequestError without points or with a coordinate that does not fit 32 bits.
void fill_polygon(Mask& mask, std::span<const Point> points, std::uint8_t value);

struct Shape {
  std::string label;  ///< "flag" (any case) is skipped, a label containing "ignore" (any case) draws 255, others 1
  std::vector<Point> points;
};

/// ReasonSeg's label: shapes drawn in order of drawn area, largest first (among equals the later first).
/// Values 0, 1 and 255; the training target is (value == 1).
Mask draw_shapes(std::span<const Shape> shapes, Size size);

}  // namespace tessera::image
