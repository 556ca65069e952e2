#include "data/coco.hpp"

#include <fmt/format.h>

#include <cmath>

#include "data/annotation_json.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::int64_t integer(const json& record, std::string_view name, const fs::path& path, const std::string& where) {
  const auto& value = field(record, name, path, where);
  if (!value.is_number_integer()) {
    throw BrokenSample({path.string(), fmt::format("{}.{}", where, name),
                        fmt::format("expected a whole number, found {}", value.type_name())});
  }
  return value.get<std::int64_t>();
}

/// Pixels, which some tools write as 12.0.
std::int64_t pixels(const json& value, const fs::path& path, const std::string& where) {
  constexpr double kMost = 0x1.0p53;
  const double number = as_number(value, path, where);
  if (!(std::abs(number) <= kMost))
    throw BrokenSample({path.string(), where, fmt::format("{} is no number of pixels", number)});
  return static_cast<std::int64_t>(number);
}

CocoRuns read_runs(const json& record, const fs::path& path, const std::string& where) {
  CocoRuns runs;
  const auto& size = as_array(field(record, "size", path, where), path, where + ".size");
  if (size.size() != 2) throw BrokenSample({path.string(), where + ".size", "expected [height, width]"});
  runs.size = {pixels(size[0], path, where + ".size"), pixels(size[1], path, where + ".size")};
  const auto& counts = field(record, "counts", path, where);
  if (counts.is_string()) {
    runs.counts = counts.get<std::string>();
  } else {
    std::vector<std::int64_t> numbers;
    for (const auto& run : as_array(counts, path, where + ".counts")) {
      numbers.push_back(pixels(run, path, where + ".counts"));
    }
    runs.counts = std::move(numbers);
  }
  return runs;
}

void add_image(CocoFile& file, const json& record, const std::string& where) {
  CocoImage image{integer(record, "id", file.path, where),
                  string_field(record, "file_name", file.path, where),
                  {integer(record, "height", file.path, where), integer(record, "width", file.path, where)}};
  if (!file.image_row.try_emplace(image.id, file.images.size()).second) {
    throw BrokenSample({file.path.string(), where, fmt::format("image id {} is there twice", image.id)});
  }
  file.images.push_back(std::move(image));
}

void add_annotation(CocoFile& file, const json& record, const std::string& where) {
  CocoAnnotation annotation;
  annotation.id = integer(record, "id", file.path, where);
  annotation.image_id = integer(record, "image_id", file.path, where);
  annotation.category_id = integer(record, "category_id", file.path, where);
  annotation.segmentation =
      read_segmentation(field(record, "segmentation", file.path, where), file.path, where + ".segmentation");
  annotation.where = where;
  if (!file.annotation_row.try_emplace(annotation.id, file.annotations.size()).second) {
    throw BrokenSample({file.path.string(), where, fmt::format("annotation id {} is there twice", annotation.id)});
  }
  file.annotations.push_back(std::move(annotation));
}

}  // namespace

CocoSegmentation read_segmentation(const json& value, const fs::path& path, const std::string& where) {
  if (value.is_object()) return std::vector<CocoRuns>{read_runs(value, path, where)};
  const auto& list = as_array(value, path, where);
  if (!list.empty() && list.front().is_object()) {
    std::vector<CocoRuns> records;
    for (std::size_t i = 0; i < list.size(); ++i)
      records.push_back(read_runs(list[i], path, fmt::format("{}[{}]", where, i)));
    return records;
  }
  CocoPolygons polygons;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto at = fmt::format("{}[{}]", where, i);
    std::vector<double> numbers;
    for (const auto& number : as_array(list[i], path, at)) numbers.push_back(as_number(number, path, at));
    polygons.push_back(std::move(numbers));
  }
  return polygons;
}

CocoFile read_coco(const fs::path& path) {
  CocoFile file;
  file.path = path;
  for_each_listed(path, [&](const std::string& list, std::int64_t number, const json& record) {
    const auto where = fmt::format("{}[{}]", list, number);
    try {
      if (list == "images") {
        add_image(file, record, where);
      } else if (list == "annotations") {
        add_annotation(file, record, where);
      } else if (list == "categories") {
        file.categories[integer(record, "id", path, where)] = string_field(record, "name", path, where);
      }
    } catch (const BrokenSample& broken) {
      file.problems.push_back(broken.problem());
    }
  });
  return file;
}

std::vector<image::Rle> planes_of(const CocoAnnotation& annotation, image::Size size, const fs::path& path) {
  const auto where = annotation.where + ".segmentation";
  std::vector<image::Rle> planes;
  try {
    if (const auto* polygons = std::get_if<CocoPolygons>(&annotation.segmentation)) {
      for (const auto& polygon : *polygons) planes.push_back(image::rle_from_polygon(polygon, size, where));
      return planes;
    }
    for (const auto& runs : std::get<std::vector<CocoRuns>>(annotation.segmentation)) {
      if (runs.size != size) {
        throw BrokenSample({path.string(), where,
                            fmt::format("a mask of {} x {} pixels for an image of {} x {}", runs.size.width,
                                        runs.size.height, size.width, size.height)});
      }
      const auto* text = std::get_if<std::string>(&runs.counts);
      planes.push_back(text != nullptr
                           ? image::rle_from_string(*text, size, where)
                           : image::rle_from_counts(std::get<std::vector<std::int64_t>>(runs.counts), size, where));
    }
  } catch (const BrokenSample&) {
    throw;
  } catch (const RequestError& error) {
    throw BrokenSample({path.string(), where, error.what()});
  }
  return planes;
}

image::Rle empty_mask(image::Size size) {
  return {size.height, size.width, {static_cast<std::uint32_t>(size.height * size.width)}};
}

image::Rle mask_of(const CocoAnnotation& annotation, image::Size size, const fs::path& path) {
  const auto planes = planes_of(annotation, size, path);
  return planes.empty() ? empty_mask(size) : image::rle_merge(planes);
}

}  // namespace tessera::data
