#pragma once
/// A pixel has 256 values, so normalising is a table of 3 * 256 floats, computed in the reference's order of
/// operations.
#include <cstdint>

#include "tessera/image/image.hpp"

namespace tessera::image {

struct PixelTable {
  float values[3][256];
};

/// Interleaved pixels to three planes, `plane_stride` and `row_stride` floats apart.
void write_planes(const Image& image, const PixelTable& table, float* planes, std::int64_t plane_stride,
                  std::int64_t row_stride);

}  // namespace tessera::image
