#include "normalize.hpp"

namespace tessera::image {

void write_planes(const Image& image, const PixelTable& table, float* planes, std::int64_t plane_stride,
                  std::int64_t row_stride) {
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* pixel = image.row(y);
    float* red = planes + y * row_stride;
    float* green = red + plane_stride;
    float* blue = green + plane_stride;
    for (std::int64_t x = 0; x < image.width; ++x, pixel += 3) {
      red[x] = table.values[0][pixel[0]];
      green[x] = table.values[1][pixel[1]];
      blue[x] = table.values[2][pixel[2]];
    }
  }
}

}  // namespace tessera::image
