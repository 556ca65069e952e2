#pragma once
/// Encoders to memory, and the pictures people look at: overlays, label views, contact sheets. Files are the caller's
/// business (core's AtomicFile).
/// Errors: RequestError for sizes that do not fit each other or are empty.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/image/image.hpp"
#include "tessera/image/mask.hpp"

namespace tessera::image {

using Colour = std::array<std::uint8_t, 3>;
inline constexpr Colour kRed{255, 0, 0};
inline constexpr Colour kGreen{0, 255, 0};

/// level: zlib's, 1 fast … 9 small.
std::string encode_png(const Image& image, int level = 6);
/// 8-bit grey.
std::string encode_png_grey(const std::vector<std::uint8_t>& values, Size size, int level = 6);
/// A palette PNG whose indices are the labels; colours beyond the palette given are black. At most 256 colours.
std::string encode_png_labels(const LabelMap& labels, std::span<const Colour> palette, int level = 6);
/// Pascal VOC's colours: the bits of the index spread over the three channels.
std::vector<Colour> label_palette();

/// quality 1…100, chroma halved both ways as is usual (OpenCV's and Pillow's default).
std::string encode_jpeg(const Image& image, int quality = 95);
std::string encode_jpeg_grey(const std::vector<std::uint8_t>& values, Size size, int quality = 95);

/// Where the mask is not 0: (1 - share) of the image and `share` of the colour, truncated, as LISA's chat.py writes it.
Image overlay(const Image& image, const Mask& mask, Colour colour = kRed, double share = 0.5);
/// LISA's annotation viewer: the image, and beside it the label with 60 % green on the target (1), 60 % red on what is
/// ignored (255).
Image label_view(const Image& image, const Mask& label);
/// Images from left to right on white, top-aligned, `gap` pixels apart.
Image side_by_side(std::span<const Image> images, std::int64_t gap = 0);

struct SheetItem {
  Image image;
  std::string caption;  ///< one line, cut to the tile's width; UTF-8, characters outside ASCII are drawn as '?'
};
/// A contact sheet: each image scaled to fit a square tile, `columns` to a row.
Image contact_sheet(std::span<const SheetItem> items, std::int64_t columns, std::int64_t tile = 256);

}  // namespace tessera::image
