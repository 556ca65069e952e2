#pragma once
/// Drawing with soft edges on an image: rectangles, lines, and text in a font made of strokes.
#include <cstdint>
#include <string_view>

#include "tessera/image/write.hpp"

namespace tessera::image {

class Canvas {
 public:
  Canvas(std::int64_t height, std::int64_t width, Colour background);

  /// Coordinates are pixel centres; a line of width 1 at whole coordinates covers one row of pixels.
  void line(double x0, double y0, double x1, double y1, double width, Colour colour, double opacity = 1);
  void fill(std::int64_t top, std::int64_t left, std::int64_t height, std::int64_t width, Colour colour,
            double opacity = 1);
  /// `size`: height of a capital letter in pixels; (x, y): left end of the base line. Returns where the text ends.
  double text(double x, double y, std::string_view text, double size, Colour colour);
  /// The same, turned a quarter to the left: it runs upwards from (x, y).
  void text_upwards(double x, double y, std::string_view text, double size, Colour colour);
  void paste(const Image& image, std::int64_t top, std::int64_t left);

  Image take() { return std::move(image_); }

 private:
  void blend(std::int64_t y, std::int64_t x, Colour colour, double opacity);
  double strokes(double x, double y, std::string_view text, double size, Colour colour, bool upwards);
  Image image_;
};

double text_width(std::string_view text, double size);

}  // namespace tessera::image
