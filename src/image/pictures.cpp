#include <algorithm>
#include <cmath>

#include "canvas.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/resize.hpp"
#include "tessera/image/write.hpp"

namespace tessera::image {
namespace {

constexpr Colour kWhite{255, 255, 255}, kInk{40, 44, 52};

void check_same(const Image& image, const Mask& mask) {
  if (image.size() != mask.size() || image.rgb.empty()) {
    throw RequestError("a mask of {} x {} pixels does not fit an image of {} x {}", mask.width, mask.height,
                       image.width, image.height);
  }
}

}  // namespace

Image overlay(const Image& image, const Mask& mask, Colour colour, double share) {
  check_same(image, mask);
  Image out = image;
  for (std::size_t i = 0; i < mask.data.size(); ++i) {
    if (mask.data[i] == 0) continue;
    for (std::size_t c = 0; c < 3; ++c) {
      auto& value = out.rgb[3 * i + c];
      value = static_cast<std::uint8_t>(value * (1 - share) + colour[c] * share);
    }
  }
  return out;
}

Image label_view(const Image& image, const Mask& label) {
  check_same(image, label);
  Image coloured = image;
  for (std::size_t i = 0; i < label.data.size(); ++i) {
    if (label.data[i] != 1 && label.data[i] != 255) continue;
    const Colour& colour = label.data[i] == 1 ? kGreen : kRed;
    for (std::size_t c = 0; c < 3; ++c) {
      auto& value = coloured.rgb[3 * i + c];
      value = static_cast<std::uint8_t>(std::lround(colour[c] * 0.6 + value * 0.4));
    }
  }
  const Image both[] = {image, std::move(coloured)};
  return side_by_side(both);
}

Image side_by_side(std::span<const Image> images, std::int64_t gap) {
  std::int64_t height = 0, width = images.empty() ? 0 : gap * (std::ssize(images) - 1);
  for (const Image& image : images) height = std::max(height, image.height), width += image.width;
  if (height <= 0 || width <= 0) throw RequestError("no images to put side by side");
  Canvas canvas(height, width, kWhite);
  std::int64_t left = 0;
  for (const Image& image : images) {
    canvas.paste(image, 0, left);
    left += image.width + gap;
  }
  return canvas.take();
}

Image contact_sheet(std::span<const SheetItem> items, std::int64_t columns, std::int64_t tile) {
  constexpr std::int64_t kGap = 8, kCaption = 22;
  constexpr double kTextSize = 8;
  if (items.empty() || columns < 1 || tile < 16 || tile > 4096) {
    throw RequestError("contact sheet of {} images in {} columns of {} pixels", items.size(), columns, tile);
  }
  columns = std::min(columns, std::ssize(items));
  const std::int64_t rows = (std::ssize(items) + columns - 1) / columns;
  Canvas canvas(kGap + rows * (tile + kCaption + kGap), kGap + columns * (tile + kGap), kWhite);
  for (std::int64_t i = 0; i < std::ssize(items); ++i) {
    const auto& [image, caption] = items[static_cast<std::size_t>(i)];
    const std::int64_t top = kGap + i / columns * (tile + kCaption + kGap), left = kGap + i % columns * (tile + kGap);
    Size fitted = sam_size(image.size(), tile);
    fitted = {std::max<std::int64_t>(fitted.height, 1), std::max<std::int64_t>(fitted.width, 1)};
    canvas.fill(top, left, tile, tile, {240, 241, 243});
    canvas.paste(resize(image, fitted, Filter::bilinear), top + (tile - fitted.height) / 2,
                 left + (tile - fitted.width) / 2);
    std::string text = caption;
    while (!text.empty() && text_width(text, kTextSize) > static_cast<double>(tile)) text.pop_back();
    canvas.text(static_cast<double>(left), static_cast<double>(top + tile) + 6 + kTextSize, text, kTextSize, kInk);
  }
  return canvas.take();
}

}  // namespace tessera::image
