#pragma once
/// Run-length masks as COCO's tools write them: runs down the columns, beginning with a run of zeros (maybe empty).
///
/// Strings are pycocotools' `counts`: differences to the count before last, five bits a character from '0' on.
/// Source: cocodataset/cocoapi common/maskApi.c (behaviour).
/// Errors: RequestError beginning with `label` for strings and counts that do not describe exactly height * width
/// pixels.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/image/mask.hpp"

namespace tessera::image {

struct Rle {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint32_t> counts;
  Size size() const noexcept { return {height, width}; }
  friend bool operator==(const Rle&, const Rle&) = default;
};

/// Every value but 0 counts as inside.
Rle rle_encode(const Mask& mask);
Mask rle_decode(const Rle& rle);
/// Adds the mask onto `sum` (same size), modulo 256: the reference sums the planes of an object and does not clip.
void rle_add(const Rle& rle, Mask& sum);

std::string rle_to_string(const Rle& rle);
Rle rle_from_string(std::string_view counts, Size size, std::string_view label);
/// Uncompressed counts, as COCO stores crowd regions.
Rle rle_from_counts(std::span<const std::int64_t> counts, Size size, std::string_view label);

/// One polygon as pycocotools' frPyObjects: x0 y0 x1 y1 …, at least three points. Differs from OpenCV's fill on
/// purpose.
Rle rle_from_polygon(std::span<const double> xy, Size size, std::string_view label);
/// Union of several polygons: an instance's `segmentation` list.
Rle rle_from_polygons(std::span<const std::vector<double>> polygons, Size size, std::string_view label);

/// Union, or intersection; all of one size, at least one. Throws RequestError otherwise.
Rle rle_merge(std::span<const Rle> parts, bool intersect = false);
std::int64_t rle_area(const Rle& rle);

struct Rectangle {
  std::int64_t x = 0, y = 0, width = 0, height = 0;
  friend bool operator==(const Rectangle&, const Rectangle&) = default;
};
/// The smallest rectangle around the mask; all 0 for an empty one.
Rectangle rle_bounds(const Rle& rle);

}  // namespace tessera::image
