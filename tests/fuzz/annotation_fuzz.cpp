// Annotations of people's making: COCO's layout and ReasonSeg's, read and drawn; lists of records.
#include <cstdlib>

#include "data/annotation_json.hpp"
#include "data/coco.hpp"
#include "data/reason_seg_annotation.hpp"
#include "fuzz/input_file.hpp"

namespace {

using namespace tessera;

constexpr std::int64_t kMostPixels = 1 << 16;  ///< of a mask that is drawn

template <class Action>
void attempt(Action action) {
  try {
    action();
  } catch (const RequestError&) {  // the one answer a broken file may get
  }
}

void demand(bool holds) {
  if (!holds) std::abort();
}

bool small(image::Size size) {
  return size.height > 0 && size.width > 0 && size.height <= kMostPixels && size.width <= kMostPixels / size.height;
}

void draw(const data::CocoAnnotation& annotation, image::Size size, const std::string& path) {
  attempt([&] {
    const image::Rle mask = data::mask_of(annotation, size, path);
    demand(mask.size() == size);
    demand(image::rle_area(mask) <= size.height * size.width);
  });
}

void read_coco(const std::string& path) {
  const data::CocoFile file = data::read_coco(path);
  for (const auto& annotation : file.annotations) {
    draw(annotation, {37, 53}, path);
    const auto row = file.image_row.find(annotation.image_id);
    if (row == file.image_row.end()) continue;
    const image::Size size = file.images.at(row->second).size;
    if (small(size)) draw(annotation, size, path);
  }
}

void read_reason_seg(const std::string& path) {
  const data::ReasonSegAnnotation annotation = data::read_reason_seg_annotation(path);
  for (const double slack : {0.0, 2.0}) {
    attempt([&] {
      const data::ReasonSegMasks masks = data::rasterise(annotation, {37, 53}, slack, path);
      demand(masks.target.size() == image::Size{37, 53});
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::InputAsFile file(data, size);
  attempt([&] { read_coco(file.path()); });
  attempt([&] { read_reason_seg(file.path()); });
  attempt([&] { data::for_each_record(file.path(), [](std::int64_t, const nlohmann::json&) {}); });
  return 0;
}
