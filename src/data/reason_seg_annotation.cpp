#include "data/reason_seg_annotation.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/annotation_json.hpp"
#include "tessera/data/problem.hpp"

namespace tessera::data {
namespace {

bool is_flag(const image::Shape& shape) {
  return ascii_lower(shape.label) == "flag";
}

image::Shape read_shape(const nlohmann::json& shape, const std::filesystem::path& path, const std::string& where) {
  image::Shape result;
  result.label = string_field(shape, "label", path, where);
  const auto at = where + ".points";
  const auto& points = as_array(field(shape, "points", path, where), path, at);
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto place = fmt::format("{}[{}]", at, i);
    const auto& point = as_array(points[i], path, place);
    if (point.size() != 2) {
      throw BrokenSample({path.string(), place, fmt::format("a point of {} numbers, expected x and y", point.size())});
    }
    result.points.push_back({as_number(point[0], path, place), as_number(point[1], path, place)});
  }
  // A flag is no region: annotators set it with one point.
  if (!is_flag(result) && points.size() < 3) {
    throw BrokenSample({path.string(), at, fmt::format("a polygon of {} points; three are the least", points.size())});
  }
  return result;
}

void check_inside(const image::Shape& shape, image::Size size, double slack, const std::filesystem::path& path,
                  const std::string& where) {
  for (std::size_t i = 0; i < shape.points.size(); ++i) {
    const auto [x, y] = shape.points[i];
    const bool inside = x >= -slack && y >= -slack && x <= static_cast<double>(size.width) + slack &&
                        y <= static_cast<double>(size.height) + slack;
    if (inside) continue;
    throw BrokenSample(
        {path.string(), fmt::format("{}.points[{}]", where, i),
         fmt::format("the point ({}, {}) lies outside the image of {} x {} pixels; mend it, or allow more "
                     "with --polygon_slack",
                     x, y, size.width, size.height)});
  }
  try {
    image::check_polygon(shape.points, size, where);
  } catch (const RequestError& error) {
    throw BrokenSample({path.string(), where, error.what()});
  }
}

image::Rle pixels_of(const image::Mask& drawn, std::uint8_t value) {
  image::Mask plane(drawn.height, drawn.width);
  std::transform(drawn.data.begin(), drawn.data.end(), plane.data.begin(),
                 [value](std::uint8_t pixel) { return static_cast<std::uint8_t>(pixel == value ? 1 : 0); });
  return image::rle_encode(plane);
}

}  // namespace

ReasonSegAnnotation read_reason_seg_annotation(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw BrokenSample({path.string(), "", "the annotation is missing"});
  const auto json = read_annotation_json(path);
  ReasonSegAnnotation result;
  const auto& texts = as_array(field(json, "text", path, ""), path, "text");
  for (std::size_t i = 0; i < texts.size(); ++i) {
    result.texts.push_back(as_string(texts[i], path, fmt::format("text[{}]", i)));
    if (strip(result.texts.back()).empty()) throw BrokenSample({path.string(), fmt::format("text[{}]", i), "empty"});
  }
  if (result.texts.empty()) throw BrokenSample({path.string(), "text", "no instruction"});
  result.is_sentence = as_bool(field(json, "is_sentence", path, ""), path, "is_sentence");
  const auto& shapes = as_array(field(json, "shapes", path, ""), path, "shapes");
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    result.shapes.push_back(read_shape(shapes[i], path, fmt::format("shapes[{}]", i)));
  }
  return result;
}

ReasonSegMasks rasterise(const ReasonSegAnnotation& annotation, image::Size size, double slack,
                         const std::filesystem::path& path) {
  for (std::size_t i = 0; i < annotation.shapes.size(); ++i) {
    if (is_flag(annotation.shapes[i])) continue;
    check_inside(annotation.shapes[i], size, slack, path, fmt::format("shapes[{}]", i));
  }
  const auto drawn = image::draw_shapes(annotation.shapes, size);
  ReasonSegMasks masks{pixels_of(drawn, 1), {}};
  if (std::find(drawn.data.begin(), drawn.data.end(), 255) != drawn.data.end()) masks.ignore = pixels_of(drawn, 255);
  return masks;
}

}  // namespace tessera::data
