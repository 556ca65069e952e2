#include "tessera/image/augment.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tessera/core/error.hpp"

namespace tessera::image {
namespace {

/// Pillow's Image.blend: between and beyond two values, in single precision, truncated.
std::uint8_t blend(int from, int to, float share) {
  const float value = static_cast<float>(from) + share * static_cast<float>(to - from);
  return static_cast<std::uint8_t>(std::clamp(value, 0.0F, 255.0F));
}

/// Pillow's convert("L"): ITU-R 601 luma in 16.16 fixed point.
int luma(const std::uint8_t* pixel) {
  return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16;
}

/// One plane [from] cropped, scaled and mirrored as drawn.
std::vector<std::uint8_t> move_plane(const std::vector<std::uint8_t>& plane, Size from, const Augmentation& what) {
  const Box box = what.crop;
  if (box.top < 0 || box.left < 0 || box.top + box.height > from.height || box.left + box.width > from.width) {
    throw RequestError("an augmentation drawn for another size than {} x {} pixels", from.width, from.height);
  }
  std::vector<std::uint8_t> part;
  part.reserve(static_cast<std::size_t>(box.height * box.width));
  for (std::int64_t y = box.top; y < box.top + box.height; ++y) {
    const std::uint8_t* row = plane.data() + y * from.width + box.left;
    part.insert(part.end(), row, row + box.width);
  }
  auto out = resize_nearest(part, {box.height, box.width}, what.size);
  if (what.flip) {
    for (std::int64_t y = 0; y < what.size.height; ++y) {
      std::reverse(out.begin() + y * what.size.width, out.begin() + (y + 1) * what.size.width);
    }
  }
  return out;
}

Box draw_crop(const AugmentConfig& config, Size image, RandomSequence& random) {
  constexpr int kTries = 10;
  Box found{0, 0, image.height, image.width};
  bool done = false;
  for (int i = 0; i < kTries; ++i) {
    const double share = config.crop_min_area + (1 - config.crop_min_area) * random.uniform();
    const double aspect = std::exp((2 * random.uniform() - 1) * std::log(config.crop_aspect));
    const double down = random.uniform(), across = random.uniform();
    const double area = share * static_cast<double>(image.height * image.width);
    const std::int64_t width = std::lround(std::sqrt(area * aspect)), height = std::lround(std::sqrt(area / aspect));
    if (done || config.crop_min_area >= 1 || width < 1 || height < 1 || width > image.width || height > image.height)
      continue;
    found = {static_cast<std::int64_t>(down * static_cast<double>(image.height - height + 1)),
             static_cast<std::int64_t>(across * static_cast<double>(image.width - width + 1)), height, width};
    done = true;  // the remaining tries only use up their numbers
  }
  return found;
}

}  // namespace

bool AugmentConfig::any() const noexcept {
  return flip > 0 || crop_min_area < 1 || scale_min != 1 || scale_max != 1 || brightness > 0 || contrast > 0 ||
         saturation > 0;
}

void check(const AugmentConfig& config) {
  const auto demand = [](bool holds, const char* name, double value, const char* wanted) {
    if (!holds) throw RequestError("augmentation: {} is {}, {} expected", name, value, wanted);
  };
  demand(config.flip >= 0 && config.flip <= 1, "flip", config.flip, "a probability");
  demand(config.crop_min_area > 0 && config.crop_min_area <= 1, "crop_min_area", config.crop_min_area,
         "a share above 0 and up to 1");
  demand(config.crop_aspect >= 1 && config.crop_aspect <= 100, "crop_aspect", config.crop_aspect,
         "a ratio of at least 1");
  demand(config.scale_min > 0 && config.scale_min <= config.scale_max, "scale_min", config.scale_min,
         "a factor above 0 and not above scale_max");
  demand(config.scale_max <= 16, "scale_max", config.scale_max, "a factor up to 16");
  demand(config.brightness >= 0 && config.brightness <= 10, "brightness", config.brightness, "0 … 10");
  demand(config.contrast >= 0 && config.contrast <= 10, "contrast", config.contrast, "0 … 10");
  demand(config.saturation >= 0 && config.saturation <= 10, "saturation", config.saturation, "0 … 10");
}

Augmentation draw_augmentation(const AugmentConfig& config, Size image, RandomSequence& random, bool may_flip) {
  check(config);
  Augmentation what;
  what.crop = draw_crop(config, image, random);
  const double scale = config.scale_min + (config.scale_max - config.scale_min) * random.uniform();
  const auto scaled = [scale](std::int64_t side) {
    return std::max<std::int64_t>(std::lround(static_cast<double>(side) * scale), 1);
  };
  what.size = {scaled(what.crop.height), scaled(what.crop.width)};
  what.flip = random.uniform() < config.flip && may_flip;
  const double strengths[] = {config.brightness, config.contrast, config.saturation};
  for (std::size_t i = 0; i < 3; ++i) {
    const double low = std::max(0.0, 1 - strengths[i]), high = 1 + strengths[i];
    what.factors[i] = low + (high - low) * random.uniform();
    if (strengths[i] == 0) what.factors[i] = 1;
  }
  // Fisher and Yates, with a fixed count of numbers.
  for (std::size_t i = 2; i > 0; --i) {
    std::swap(what.order[i], what.order[static_cast<std::size_t>(random.uniform() * static_cast<double>(i + 1))]);
  }
  return what;
}

Image augment(const Image& image, const Augmentation& what) {
  const bool whole = what.crop.height == image.height && what.crop.width == image.width;
  Image out = whole ? image : crop(image, what.crop);
  if (out.size() != what.size) out = resize(out, what.size, Filter::bilinear);
  if (what.flip) out = flip_horizontal(std::move(out));
  for (const std::uint8_t step : what.order) {
    const double factor = what.factors[step];
    if (factor == 1) continue;
    if (step == 0) out = adjust_brightness(std::move(out), factor);
    if (step == 1) out = adjust_contrast(std::move(out), factor);
    if (step == 2) out = adjust_saturation(std::move(out), factor);
  }
  return out;
}

Mask augment(const Mask& mask, const Augmentation& what) {
  Mask out;
  out.height = what.size.height, out.width = what.size.width;
  out.data = move_plane(mask.data, mask.size(), what);
  return out;
}

LabelMap augment(const LabelMap& labels, const Augmentation& what) {
  return {what.size.height, what.size.width, move_plane(labels.values, labels.size(), what)};
}

Image flip_horizontal(Image image) {
  return apply_orientation(std::move(image), 2);
}

Image adjust_brightness(Image image, double factor) {
  for (auto& value : image.rgb) value = blend(0, value, static_cast<float>(factor));
  return image;
}

Image adjust_contrast(Image image, double factor) {
  if (image.rgb.empty()) return image;
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) sum += luma(&image.rgb[i]);
  const int mean = static_cast<int>(static_cast<double>(sum) / static_cast<double>(image.rgb.size() / 3) + 0.5);
  for (auto& value : image.rgb) value = blend(mean, value, static_cast<float>(factor));
  return image;
}

Image adjust_saturation(Image image, double factor) {
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    const int grey = luma(&image.rgb[i]);
    for (std::size_t c = 0; c < 3; ++c) image.rgb[i + c] = blend(grey, image.rgb[i + c], static_cast<float>(factor));
  }
  return image;
}

}  // namespace tessera::image
