#pragma once
/// Image: JPEG, PNG and WebP bytes to 8-bit RGB, the pixels that Pillow's `Image.open(f).convert("RGB")` gives.
///
/// What convert("RGB") means here: grey is repeated, alpha and tRNS are dropped (not composited), 16 bits keep their
/// high byte (but 16-bit grey without alpha is clipped to 255), palettes are looked up, CMYK and YCCK go through
/// Adobe's inverted convention. Of an animation, the first frame. The format is told by the content; file names and
/// suffixes are not seen here. Colour profiles are not applied.
///
/// Orientation: OpenCV's imread turns the image as EXIF says (LISA reads with it: use DecodeOptions::exif_orientation),
/// Pillow's open does not (LLaVA and transformers read with it).
///
/// Damage is an error, not a grey half: a file cut short, a wrong checksum, entropy-coded data that does not decode.
/// Metadata that never reaches the pixels (comments, profiles, EXIF) is not judged.
/// Errors: RequestError, its text beginning with `label` (the caller's name for the bytes).
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace tessera::image {

using Bytes = std::span<const std::uint8_t>;

inline Bytes bytes_of(std::string_view text) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
  friend bool operator==(const Size&, const Size&) = default;
};

/// Row-major [height, width, 3], red first, no row padding.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> rgb;

  Image() = default;
  Image(std::int64_t h, std::int64_t w) : height(h), width(w), rgb(static_cast<std::size_t>(h * w * 3)) {}
  Size size() const noexcept { return {height, width}; }
  std::uint8_t* row(std::int64_t y) noexcept { return rgb.data() + y * width * 3; }
  const std::uint8_t* row(std::int64_t y) const noexcept { return rgb.data() + y * width * 3; }
};

/// Class indices or grey values as stored, row-major [height, width].
struct LabelMap {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> values;
  Size size() const noexcept { return {height, width}; }
};

enum class Format { jpeg, png, webp };
std::string_view name_of(Format format) noexcept;

/// Pillow's own bound (twice MAX_IMAGE_PIXELS): beyond it a header is taken for an attack.
inline constexpr std::int64_t kMaxPixels = 178956970;

struct DecodeOptions {
  bool exif_orientation = false;         ///< turn and mirror as the EXIF orientation says
  std::int64_t max_pixels = kMaxPixels;  ///< height * width beyond this is refused before anything is allocated
};

struct Header {
  Format format = Format::jpeg;
  Size size;          ///< as stored, before any orientation
  int channels = 0;   ///< as stored: 1 grey or palette, 2 grey and alpha, 3 colour, 4 colour and alpha, or CMYK
  int bit_depth = 8;  ///< of one sample
  bool palette = false;
  int orientation = 1;  ///< EXIF, 1…8; 1 where there is none or it is malformed
  /// The size after the orientation is applied.
  Size oriented() const noexcept { return orientation >= 5 ? Size{size.width, size.height} : size; }
};

/// Reads the header alone; allocates nothing that depends on it.
Header probe(Bytes bytes, std::string_view label, const DecodeOptions& options = {});

Image decode(Bytes bytes, std::string_view label, const DecodeOptions& options = {});

/// Throws where decode() would, for less work: of a JPEG all data are read, but a picture of an eighth is made of them.
Header check_sound(Bytes bytes, std::string_view label, const DecodeOptions& options = {});

/// A PNG label map as `numpy.array(PIL.Image.open(f))`: palette indices, or grey values of 8 bits; grey of 2 or 4 bits
/// is spread over 0…255 as Pillow does, 1 bit gives 0 and 1. Colour, alpha and 16-bit images are refused: no class
/// indices.
LabelMap decode_label_map(Bytes bytes, std::string_view label, const DecodeOptions& options = {});

/// The image turned as EXIF orientation 1…8 asks.
Image apply_orientation(Image image, int orientation);
/// The EXIF orientation in a TIFF structure ("II*\0…" or "MM\0*…"); 1 where there is none or it is malformed.
int exif_orientation(Bytes tiff) noexcept;

}  // namespace tessera::image
