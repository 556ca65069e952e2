#pragma once
// Annotations in COCO's layout: images, annotations, categories; the base of the referring and the part data sets.
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "tessera/data/problem.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::data {

struct CocoImage {
  std::int64_t id = 0;
  std::string file_name;
  image::Size size;
};

/// Run lengths as an annotation stores them: COCO's text, or plain numbers (crowd regions).
struct CocoRuns {
  image::Size size;
  std::variant<std::string, std::vector<std::int64_t>> counts;
};
using CocoPolygons = std::vector<std::vector<double>>;  ///< each x0 y0 x1 y1 …
using CocoSegmentation = std::variant<CocoPolygons, std::vector<CocoRuns>>;

struct CocoAnnotation {
  std::int64_t id = 0;
  std::int64_t image_id = 0;
  std::int64_t category_id = 0;
  CocoSegmentation segmentation;
  std::string where;  ///< "annotations[12]"
};

struct CocoFile {
  std::filesystem::path path;
  std::vector<CocoImage> images;
  std::vector<CocoAnnotation> annotations;
  std::map<std::int64_t, std::string> categories;
  std::unordered_map<std::int64_t, std::size_t> image_row;       ///< by id
  std::unordered_map<std::int64_t, std::size_t> annotation_row;  ///< by id
  std::vector<Problem> problems;                                 ///< records left out: wrong types, repeated ids
};

/// Polygons, run lengths or a list of these, as a `segmentation` may be. Throws BrokenSample naming the place.
CocoSegmentation read_segmentation(const nlohmann::json& value, const std::filesystem::path& path,
                                   const std::string& where);

/// Throws BrokenSample when the file is missing or no JSON.
CocoFile read_coco(const std::filesystem::path& path);

/// The planes of an annotation: one per polygon or run-length record; none where the segmentation is empty.
/// Throws BrokenSample naming the annotation: a size other than the image's, runs that overrun, a polygon of fewer than
/// three points.
std::vector<image::Rle> planes_of(const CocoAnnotation& annotation, image::Size size,
                                  const std::filesystem::path& path);

/// Their union; an empty mask where there is none.
image::Rle mask_of(const CocoAnnotation& annotation, image::Size size, const std::filesystem::path& path);

image::Rle empty_mask(image::Size size);

}  // namespace tessera::data
