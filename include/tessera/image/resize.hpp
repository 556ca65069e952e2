#pragma once
/// Resizing to the same 8-bit pixels as Pillow's `Image.resize` (releases up to 12: horizontal pass first).
///
/// Two separable passes, each rounded to 8 bits, weights in fixed point of 22 bits; a pass whose size does not change
/// is skipped. Shrinking widens the filter (antialiasing), as Pillow does. On x86 with AVX2 the inner loops are
/// vectorised with the same integer results. Source: Pillow src/libImaging/Resample.c (behaviour).
#include <cstdint>
#include <vector>

#include "tessera/image/image.hpp"

namespace tessera::image {

/// Pillow's numbers, as `resample` in a preprocessor_config.json.
enum class Filter { nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5 };

struct Box {
  std::int64_t top = 0;
  std::int64_t left = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
};

/// Throws RequestError when a side of either size is not positive.
Image resize(const Image& image, Size to, Filter filter);
/// The part `crop` of resize(image, to, filter); the rest is not computed. Throws RequestError when crop leaves `to`.
Image resize_crop(const Image& image, Size to, Filter filter, Box crop);
/// Nearest neighbour on one plane [from.height, from.width], as Pillow resizes label maps and masks.
std::vector<std::uint8_t> resize_nearest(const std::vector<std::uint8_t>& plane, Size from, Size to);

/// SAM's: longest side to `longest`, each side int(side * scale + 0.5).
Size sam_size(Size from, std::int64_t longest);
/// CLIP's: shortest side to `shortest`, the other int(shortest * long / short).
Size clip_size(Size from, std::int64_t shortest);

/// The part of the image in `box`, black where the box reaches beyond it.
Image crop(const Image& image, Box box);
/// Where transformers' center_crop cuts: top = floor((h - to.height) / 2), beyond the image where that is smaller. (Its
/// releases up to 4.40 lost a row or column where the image was smaller by an odd number; later ones, and we, do not.)
Box center_box(Size from, Size to);
/// On a square canvas of the longer side, offset floor(difference / 2) on the shorter axis (LLaVA's expand2square).
Image expand_to_square(const Image& image, const std::uint8_t (&background)[3]);

}  // namespace tessera::image
