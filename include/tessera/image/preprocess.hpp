#pragma once
/// From 8-bit images to the floats that the vision towers take, to the last bit of the references' fp32 arithmetic.
///
/// Shapes: S = side of SAM's input, h,w = sides of CLIP's crop, N = views of one image. Planes are red, green, blue.
/// Plain memory: callers give the floats' place (a slice of a batch).
/// Source: LISA utils/dataset.py and segment_anything ResizeLongestSide; transformers CLIPImageProcessor (the NumPy
/// one, 4.31 and 4.37); LLaVA llava/mm_utils.py (expand2square, process_anyres_image).
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/image/image.hpp"
#include "tessera/image/resize.hpp"

namespace tessera::image {

/// The image at SAM's size, before normalising: longest side `longest`, bilinear. Throws RequestError when a side would
/// become 0.
Image sam_resize(const Image& image, std::int64_t longest);
/// Normalises a resized image into `planes` [3,S,S], zeros to the right and below (added after normalising).
void sam_normalize(const Image& resized, std::int64_t size, std::span<float> planes);
/// Both steps; returns the size before padding (LISA's `resize_list`).
Size sam_pixels(const Image& image, std::int64_t size, std::span<float> planes);

/// How LLaVA brings an image of any shape to the tower's square.
enum class Aspect {
  square,  ///< the processor alone: shortest side to the crop's, centre crop
  pad,     ///< first pasted on a square of the mean colour
  anyres,  ///< the whole image squeezed to a square, then the tiles of the best grid
};
Aspect aspect_from_name(std::string_view name);  ///< throws RequestError for another name

/// preprocessor_config.json of a CLIP tower; the defaults are CLIP ViT-L/14's.
struct ClipImageConfig {
  bool resize = true;
  std::int64_t shortest_edge = 224;  ///< 0: to `fixed`, whatever the aspect
  Size fixed;
  Filter resample = Filter::bicubic;
  bool center_crop = true;
  Size crop{224, 224};
  bool rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool normalize = true;
  std::array<double, 3> mean{0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> std{0.26862954, 0.26130258, 0.27577711};
};

/// Reads the JSON text of a preprocessor_config.json; missing keys keep their defaults, as in transformers.
/// Throws RequestError, beginning with `label`, for malformed JSON, wrong types, sizes that are not positive.
ClipImageConfig clip_config_from_json(std::string_view json, std::string_view label);
/// FastVLM's and similar towers: shortest edge and crop `size`, mean 0, std 1.
ClipImageConfig unit_image_config(std::int64_t size);
/// The same processor for another square size.
ClipImageConfig with_size(ClipImageConfig config, std::int64_t size);

/// The sizes an image may be brought to with Aspect::anyres; each a grid of tiles.
using GridPinpoints = std::vector<Size>;
/// From config.json's `image_grid_pinpoints`: a list of [width, height], the same as text, or "(1x1),...,(6x6)" in
/// units of `tile`. Throws RequestError.
GridPinpoints pinpoints_from_text(std::string_view text, std::int64_t tile, std::string_view label);
/// Largest effective resolution, then least waste, then first. Throws RequestError for an empty list.
Size best_resolution(Size image, const GridPinpoints& pinpoints);
/// Size of the processor's output for one view of `image`.
Size clip_output_size(Size image, const ClipImageConfig& config);
/// Views that clip_views gives for an image of this size: 1, or for anyres 1 + tiles.
std::int64_t count_views(Size image, const ClipImageConfig& config, Aspect aspect, const GridPinpoints& pinpoints = {});

/// The 8-bit views after resizing and cropping; all of one size.
std::vector<Image> clip_views(const Image& image, const ClipImageConfig& config, Aspect aspect,
                              const GridPinpoints& pinpoints = {});
/// Rescales and normalises one view into `planes` [3,h,w].
void clip_normalize(const Image& view, const ClipImageConfig& config, std::span<float> planes);
/// clip_views and clip_normalize of a `square` or `pad` image into `planes` [3,h,w].
void clip_pixels(const Image& image, const ClipImageConfig& config, Aspect aspect, std::span<float> planes);

enum class ArrayType { u8, i64, f32 };

/// An array with a name, its elements in row-major order and the machine's byte order.
struct NamedArray {
  std::string name;
  ArrayType type = ArrayType::u8;
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> bytes;
};

struct PreprocessRequest {
  enum class Kind { sam, clip } kind = Kind::clip;
  std::int64_t size = 224;  ///< SAM's side; for CLIP the configuration says
  ClipImageConfig clip;
  Aspect aspect = Aspect::square;
  GridPinpoints pinpoints;
};

/// What `tessera preprocess` writes: `resized` u8 [H,W,3] after resizing and cropping (anyres: [N,h,w,3]),
/// `pixel_values` f32 [N,3,H,W], `original_size` i64 [2] and `resize` i64 [2] (height, width; after resizing, before
/// cropping or padding).
std::vector<NamedArray> run_preprocess(const Image& image, const PreprocessRequest& request);

}  // namespace tessera::image
