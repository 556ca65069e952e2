#pragma once
/// Augmentation of an image together with its masks: random resized crop, scale, flip, colour jitter. All off by
/// default.
///
/// What is done to a sample is drawn once (from a sequence keyed by the sample) and then applied to its image and to
/// each of its masks or label maps, so they stay on each other. Colours follow Pillow's ImageEnhance to the pixel, the
/// crop's distribution torchvision's RandomResizedCrop (which also resizes to one size; here the model's preprocessing
/// does). Whether a flip makes "left" and "right" in the text false is for the caller to see: it passes may_flip.
#include <array>
#include <cstdint>

#include "tessera/core/random.hpp"
#include "tessera/image/image.hpp"
#include "tessera/image/mask.hpp"
#include "tessera/image/resize.hpp"

namespace tessera::image {

struct AugmentConfig {
  double flip = 0;                      ///< probability of mirroring left and right
  double crop_min_area = 1;             ///< the crop keeps between this share of the area and all of it; 1: no crop
  double crop_aspect = 4.0 / 3.0;       ///< the crop's width over height lies between 1 / this and this
  double scale_min = 1, scale_max = 1;  ///< factor on both sides, after the crop
  double brightness = 0, contrast = 0, saturation = 0;  ///< factors are drawn from max(0, 1 - v) … 1 + v
  bool any() const noexcept;
};
/// Throws RequestError for values out of range, naming the field.
void check(const AugmentConfig& config);

/// What was drawn for one sample.
struct Augmentation {
  Box crop;   ///< of the original image
  Size size;  ///< after scaling
  bool flip = false;
  std::array<double, 3> factors{1, 1, 1};      ///< brightness, contrast, saturation
  std::array<std::uint8_t, 3> order{0, 1, 2};  ///< in which they are applied
};

/// Draws the same count of numbers whatever the settings, so one setting does not shift another's draws.
Augmentation draw_augmentation(const AugmentConfig& config, Size image, RandomSequence& random, bool may_flip = true);

Image augment(const Image& image, const Augmentation& what);
/// Geometry alone, by nearest neighbour.
Mask augment(const Mask& mask, const Augmentation& what);
LabelMap augment(const LabelMap& labels, const Augmentation& what);

Image flip_horizontal(Image image);
/// Pillow's ImageEnhance.Brightness, Contrast and Color with this factor; 1 changes nothing.
Image adjust_brightness(Image image, double factor);
Image adjust_contrast(Image image, double factor);
Image adjust_saturation(Image image, double factor);

}  // namespace tessera::image
