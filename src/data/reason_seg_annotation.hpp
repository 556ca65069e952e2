#pragma once
// The JSON beside a ReasonSeg image, and its polygons as masks.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tessera/image/image.hpp"
#include "tessera/image/mask.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::data {

struct ReasonSegAnnotation {
  std::vector<std::string> texts;
  bool is_sentence = false;
  std::vector<image::Shape> shapes;
};

/// Throws BrokenSample: unreadable, no JSON (with line and column), other types than the format has, a polygon of fewer
/// than three points.
ReasonSegAnnotation read_reason_seg_annotation(const std::filesystem::path& path);

struct ReasonSegMasks {
  image::Rle target;
  std::optional<image::Rle> ignore;  ///< where there is any such pixel
};

/// Throws BrokenSample when a polygon lies outside the image, or a point of it more than `slack` pixels.
ReasonSegMasks rasterise(const ReasonSegAnnotation& annotation, image::Size size, double slack,
                         const std::filesystem::path& path);

}  // namespace tessera::data
