#include "tessera/image/resize.hpp"

#include <algorithm>
#include <cstring>

#include "resample.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image {
namespace {

void check_sides(Size from, Size to) {
  if (from.height <= 0 || from.width <= 0 || to.height <= 0 || to.width <= 0) {
    throw RequestError("image of {} x {} pixels (width x height) cannot be resized to {} x {}", from.width, from.height,
                       to.width, to.height);
  }
}

/// Source index of each output on one axis. The running sum, not i * step, is what Pillow computes.
std::vector<std::int64_t> nearest_places(std::int64_t from, std::int64_t to) {
  const double step = static_cast<double>(from) / static_cast<double>(to);
  std::vector<std::int64_t> places(static_cast<std::size_t>(to));
  double at = step * 0.5;
  for (auto& place : places) {
    place = std::min(static_cast<std::int64_t>(at), from - 1);
    at += step;
  }
  return places;
}

Image nearest(const Image& image, Size to, Box part) {
  const auto ys = nearest_places(image.height, to.height), xs = nearest_places(image.width, to.width);
  Image out(part.height, part.width);
  std::uint8_t* pixel = out.rgb.data();
  for (std::int64_t y = 0; y < part.height; ++y) {
    const std::uint8_t* row = image.row(ys[static_cast<std::size_t>(part.top + y)]);
    for (std::int64_t x = 0; x < part.width; ++x, pixel += 3)
      std::memcpy(pixel, row + xs[static_cast<std::size_t>(part.left + x)] * 3, 3);
  }
  return out;
}

}  // namespace

Image resize(const Image& image, Size to, Filter filter) {
  return resize_crop(image, to, filter, {0, 0, to.height, to.width});
}

Image resize_crop(const Image& image, Size to, Filter filter, Box part) {
  check_sides(image.size(), to);
  if (part.top < 0 || part.left < 0 || part.height <= 0 || part.width <= 0 || part.top + part.height > to.height ||
      part.left + part.width > to.width) {
    throw RequestError("crop of {} x {} pixels at ({}, {}) leaves the resized image of {} x {}", part.width,
                       part.height, part.left, part.top, to.width, to.height);
  }
  if (to == image.size()) return part.height == to.height && part.width == to.width ? image : crop(image, part);
  if (filter == Filter::nearest) return nearest(image, to, part);

  const bool across = to.width != image.width, down = to.height != image.height;
  resample::Weights rows;
  std::int64_t first_row = part.top, last_row = part.top + part.height;
  if (down) {
    rows = resample::make_weights(image.height, to.height, filter, part.top, part.top + part.height);
    first_row = rows.first.front();
    last_row = std::int64_t{rows.first.back()} + rows.count.back();
  }
  Image out(part.height, part.width);
  if (!across) {
    resample::vertical(image.row(first_row) + part.left * 3, image.width * 3, first_row, part.width * 3, rows,
                       out.rgb.data());
    return out;
  }
  const auto columns = resample::make_weights(image.width, to.width, filter, part.left, part.left + part.width);
  if (!down) {
    resample::horizontal(image.row(first_row), image.width, part.height, columns, out.rgb.data());
    return out;
  }
  Image between(last_row - first_row, part.width);
  resample::horizontal(image.row(first_row), image.width, between.height, columns, between.rgb.data());
  resample::vertical(between.rgb.data(), between.width * 3, first_row, part.width * 3, rows, out.rgb.data());
  return out;
}

std::vector<std::uint8_t> resize_nearest(const std::vector<std::uint8_t>& plane, Size from, Size to) {
  check_sides(from, to);
  const auto ys = nearest_places(from.height, to.height), xs = nearest_places(from.width, to.width);
  std::vector<std::uint8_t> out;
  out.reserve(ys.size() * xs.size());
  for (const auto y : ys) {
    const std::uint8_t* row = plane.data() + y * from.width;
    for (const auto x : xs) out.push_back(row[x]);
  }
  return out;
}

Size sam_size(Size from, std::int64_t longest) {
  const double scale = static_cast<double>(longest) * 1.0 / static_cast<double>(std::max(from.height, from.width));
  const auto side = [scale](std::int64_t x) { return static_cast<std::int64_t>(static_cast<double>(x) * scale + 0.5); };
  return {side(from.height), side(from.width)};
}

Size clip_size(Size from, std::int64_t shortest) {
  const auto longer = [shortest](std::int64_t side, std::int64_t other) {
    return static_cast<std::int64_t>(static_cast<double>(shortest * side) / static_cast<double>(other));
  };
  if (from.width <= from.height) return {longer(from.height, from.width), shortest};
  return {shortest, longer(from.width, from.height)};
}

Image crop(const Image& image, Box box) {
  Image out(box.height, box.width);
  const std::int64_t left = std::max<std::int64_t>(box.left, 0), right = std::min(box.left + box.width, image.width);
  if (left >= right) return out;
  for (std::int64_t y = std::max<std::int64_t>(box.top, 0); y < std::min(box.top + box.height, image.height); ++y) {
    std::memcpy(out.row(y - box.top) + (left - box.left) * 3, image.row(y) + left * 3,
                static_cast<std::size_t>((right - left) * 3));
  }
  return out;
}

Box center_box(Size from, Size to) {
  const auto half = [](std::int64_t d) { return d >= 0 ? d / 2 : -((1 - d) / 2); };  // rounds down
  return {half(from.height - to.height), half(from.width - to.width), to.height, to.width};
}

Image expand_to_square(const Image& image, const std::uint8_t (&background)[3]) {
  if (image.height == image.width) return image;
  const std::int64_t side = std::max(image.height, image.width);
  Image out(side, side);
  for (std::size_t i = 0; i < out.rgb.size(); ++i) out.rgb[i] = background[i % 3];
  const std::int64_t top = (side - image.height) / 2, left = (side - image.width) / 2;
  for (std::int64_t y = 0; y < image.height; ++y) {
    std::memcpy(out.row(top + y) + left * 3, image.row(y), static_cast<std::size_t>(image.width * 3));
  }
  return out;
}

}  // namespace tessera::image
