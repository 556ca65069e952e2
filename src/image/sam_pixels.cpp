#include <algorithm>

#include "normalize.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/preprocess.hpp"

namespace tessera::image {

Image sam_resize(const Image& image, std::int64_t longest) {
  return resize(image, sam_size(image.size(), longest), Filter::bilinear);
}

void sam_normalize(const Image& resized, std::int64_t size, std::span<float> planes) {
  constexpr float kMean[3] = {123.675F, 116.28F, 103.53F}, kStd[3] = {58.395F, 57.12F, 57.375F};
  if (resized.height > size || resized.width > size || std::ssize(planes) != 3 * size * size) {
    throw RequestError("image of {} x {} pixels and room for {} floats do not fit SAM's size {}", resized.width,
                       resized.height, planes.size(), size);
  }
  PixelTable table;
  for (int c = 0; c < 3; ++c) {
    for (int v = 0; v < 256; ++v) table.values[c][v] = (static_cast<float>(v) - kMean[c]) / kStd[c];
  }
  write_planes(resized, table, planes.data(), size * size, size);
  for (int c = 0; c < 3; ++c) {
    float* plane = planes.data() + c * size * size;
    for (std::int64_t y = 0; y < resized.height; ++y)
      std::fill(plane + y * size + resized.width, plane + (y + 1) * size, 0.0F);
    std::fill(plane + resized.height * size, plane + size * size, 0.0F);
  }
}

Size sam_pixels(const Image& image, std::int64_t size, std::span<float> planes) {
  const Image resized = sam_resize(image, size);
  sam_normalize(resized, size, planes);
  return resized.size();
}

}  // namespace tessera::image
