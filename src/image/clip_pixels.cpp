#include <algorithm>
#include <cmath>

#include "normalize.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/preprocess.hpp"

namespace tessera::image {
namespace {

Size resized_size(Size image, const ClipImageConfig& config) {
  if (!config.resize) return image;
  return config.shortest_edge > 0 ? clip_size(image, config.shortest_edge) : config.fixed;
}

/// The processor's 8-bit part. Where the crop lies inside the resized image, only that part is computed.
Image view_of(const Image& image, const ClipImageConfig& config) {
  const Size to = resized_size(image.size(), config);
  if (!config.center_crop) return resize(image, to, config.resample);
  const Box box = center_box(to, config.crop);
  if (box.top >= 0 && box.left >= 0) return resize_crop(image, to, config.resample, box);
  return crop(resize(image, to, config.resample), box);
}

Image padded(const Image& image, const ClipImageConfig& config) {
  std::uint8_t background[3];
  for (std::size_t c = 0; c < 3; ++c)
    background[c] = static_cast<std::uint8_t>(std::clamp(config.mean[c] * 255, 0.0, 255.0));
  return expand_to_square(image, background);
}

/// Scaled to touch `to` from inside, centred on black.
Image fit_on_black(const Image& image, Size to) {
  const double across = static_cast<double>(to.width) / static_cast<double>(image.width);
  const double down = static_cast<double>(to.height) / static_cast<double>(image.height);
  const auto scaled = [](std::int64_t side, double scale, std::int64_t limit) {
    return std::min(static_cast<std::int64_t>(std::ceil(static_cast<double>(side) * scale)), limit);
  };
  const Size inner = across < down ? Size{scaled(image.height, across, to.height), to.width}
                                   : Size{to.height, scaled(image.width, down, to.width)};
  const Image small = resize(image, inner, Filter::bicubic);
  return crop(small, {-((to.height - inner.height) / 2), -((to.width - inner.width) / 2), to.height, to.width});
}

std::int64_t tiles_on(std::int64_t side, std::int64_t tile) {
  return (side + tile - 1) / tile;
}

void check_anyres(const ClipImageConfig& config, const GridPinpoints& pinpoints) {
  if (!config.center_crop || config.shortest_edge < 1 || pinpoints.empty()) {
    throw RequestError("anyres needs a processor with a crop size and a shortest edge, and image_grid_pinpoints");
  }
}

std::vector<Image> anyres_views(const Image& image, const ClipImageConfig& config, const GridPinpoints& pinpoints) {
  check_anyres(config, pinpoints);
  const std::int64_t tile = config.crop.height;
  const Image canvas = fit_on_black(image, best_resolution(image.size(), pinpoints));
  std::vector<Image> views;
  views.push_back(view_of(resize(image, {config.shortest_edge, config.shortest_edge}, Filter::bicubic), config));
  for (std::int64_t top = 0; top < canvas.height; top += tile) {
    for (std::int64_t left = 0; left < canvas.width; left += tile)
      views.push_back(view_of(crop(canvas, {top, left, tile, tile}), config));
  }
  return views;
}

template <class T>
NamedArray make_array(std::string name, ArrayType type, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(values.data());
  return {std::move(name), type, std::move(shape), {first, first + values.size() * sizeof(T)}};
}

NamedArray make_size(std::string name, Size size) {
  return make_array(std::move(name), ArrayType::i64, {2}, std::vector<std::int64_t>{size.height, size.width});
}

}  // namespace

Size best_resolution(Size image, const GridPinpoints& pinpoints) {
  if (pinpoints.empty()) throw RequestError("anyres without image_grid_pinpoints");
  Size best;
  std::int64_t best_effective = 0, least_waste = 0;
  for (const Size grid : pinpoints) {
    const double scale = std::min(static_cast<double>(grid.width) / static_cast<double>(image.width),
                                  static_cast<double>(grid.height) / static_cast<double>(image.height));
    const auto scaled = [scale](std::int64_t side) {
      return static_cast<std::int64_t>(static_cast<double>(side) * scale);
    };
    const std::int64_t effective = std::min(scaled(image.width) * scaled(image.height), image.width * image.height);
    const std::int64_t waste = grid.width * grid.height - effective;
    if (best.width == 0 || effective > best_effective || (effective == best_effective && waste < least_waste)) {
      best = grid, best_effective = effective, least_waste = waste;
    }
  }
  return best;
}

Size clip_output_size(Size image, const ClipImageConfig& config) {
  return config.center_crop ? config.crop : resized_size(image, config);
}

std::int64_t count_views(Size image, const ClipImageConfig& config, Aspect aspect, const GridPinpoints& pinpoints) {
  if (aspect != Aspect::anyres) return 1;
  check_anyres(config, pinpoints);
  const Size grid = best_resolution(image, pinpoints);
  return 1 + tiles_on(grid.height, config.crop.height) * tiles_on(grid.width, config.crop.height);
}

std::vector<Image> clip_views(const Image& image, const ClipImageConfig& config, Aspect aspect,
                              const GridPinpoints& pinpoints) {
  std::vector<Image> views;
  switch (aspect) {
    case Aspect::square:
      views.push_back(view_of(image, config));
      break;
    case Aspect::pad:
      views.push_back(view_of(padded(image, config), config));
      break;
    case Aspect::anyres:
      views = anyres_views(image, config, pinpoints);
      break;
  }
  return views;
}

void clip_normalize(const Image& view, const ClipImageConfig& config, std::span<float> planes) {
  if (std::ssize(planes) != 3 * view.height * view.width) {
    throw RequestError("room for {} floats does not fit an image of {} x {} pixels", planes.size(), view.width,
                       view.height);
  }
  // NumPy: the product with the rescale factor in double, then rounded; mean and deviation rounded before use.
  PixelTable table;
  for (std::size_t c = 0; c < 3; ++c) {
    const auto mean = static_cast<float>(config.mean[c]), deviation = static_cast<float>(config.std[c]);
    for (int v = 0; v < 256; ++v) {
      float value = config.rescale ? static_cast<float>(v * config.rescale_factor) : static_cast<float>(v);
      if (config.normalize) value = (value - mean) / deviation;
      table.values[c][v] = value;
    }
  }
  write_planes(view, table, planes.data(), view.height * view.width, view.width);
}

void clip_pixels(const Image& image, const ClipImageConfig& config, Aspect aspect, std::span<float> planes) {
  if (aspect == Aspect::anyres)
    throw RequestError("anyres gives several views of an image: use clip_views and clip_normalize");
  clip_normalize(aspect == Aspect::pad ? view_of(padded(image, config), config) : view_of(image, config), config,
                 planes);
}

std::vector<NamedArray> run_preprocess(const Image& image, const PreprocessRequest& request) {
  std::vector<NamedArray> arrays;
  if (request.kind == PreprocessRequest::Kind::sam) {
    if (request.size < 1) throw RequestError("image size {} is not positive", request.size);
    const Image resized = sam_resize(image, request.size);
    std::vector<float> planes(static_cast<std::size_t>(3 * request.size * request.size));
    sam_normalize(resized, request.size, planes);
    arrays.push_back(make_array("resized", ArrayType::u8, {resized.height, resized.width, 3}, resized.rgb));
    arrays.push_back(make_array("pixel_values", ArrayType::f32, {1, 3, request.size, request.size}, planes));
    arrays.push_back(make_size("resize", resized.size()));
  } else {
    const auto views = clip_views(image, request.clip, request.aspect, request.pinpoints);
    const Size size = views.front().size();
    const auto count = std::ssize(views);
    std::vector<std::uint8_t> pixels;
    std::vector<float> planes(static_cast<std::size_t>(count * 3 * size.height * size.width));
    const auto each = planes.size() / views.size();
    for (std::size_t i = 0; i < views.size(); ++i) {
      pixels.insert(pixels.end(), views[i].rgb.begin(), views[i].rgb.end());
      clip_normalize(views[i], request.clip, std::span(planes).subspan(i * each, each));
    }
    std::vector<std::int64_t> shape{size.height, size.width, 3};
    if (request.aspect == Aspect::anyres) shape.insert(shape.begin(), count);
    arrays.push_back(make_array("resized", ArrayType::u8, std::move(shape), pixels));
    arrays.push_back(make_array("pixel_values", ArrayType::f32, {count, 3, size.height, size.width}, planes));
    const std::int64_t longest = std::max(image.height, image.width);
    const Size seen = request.aspect == Aspect::pad      ? Size{longest, longest}
                      : request.aspect == Aspect::anyres ? Size{request.clip.shortest_edge, request.clip.shortest_edge}
                                                         : image.size();
    arrays.push_back(make_size("resize", resized_size(seen, request.clip)));
  }
  arrays.push_back(make_size("original_size", image.size()));
  return arrays;
}

}  // namespace tessera::image
