#include <utility>

#include "codec.hpp"

namespace tessera::image {
namespace {

/// Reads fields of a TIFF structure in its own byte order; out-of-range reads give 0.
struct TiffView {
  Bytes bytes;
  bool big = false;

  std::uint32_t u16(std::size_t at) const {
    if (at + 2 > bytes.size()) return 0;
    return big ? std::uint32_t{bytes[at]} << 8 | bytes[at + 1] : std::uint32_t{bytes[at + 1]} << 8 | bytes[at];
  }
  std::uint32_t u32(std::size_t at) const {
    if (at + 4 > bytes.size()) return 0;
    return big ? codec::big32(&bytes[at]) : codec::little32(&bytes[at]);
  }
};

/// out[y][x] = in[f(y, x)], with the size exchanged where the orientation lies on its side.
template <class Source>
Image rearrange(const Image& in, bool sideways, Source source) {
  Image out(sideways ? in.width : in.height, sideways ? in.height : in.width);
  std::uint8_t* to = out.rgb.data();
  for (std::int64_t y = 0; y < out.height; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x, to += 3) {
      const auto [sy, sx] = source(y, x);
      const std::uint8_t* from = in.row(sy) + sx * 3;
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  return out;
}

}  // namespace

int exif_orientation(Bytes tiff) noexcept {
  constexpr std::uint32_t kOrientation = 0x0112, kShort = 3;
  if (tiff.size() < 8 || (tiff[0] != 'I' && tiff[0] != 'M') || tiff[1] != tiff[0]) return 1;
  const TiffView view{tiff, tiff[0] == 'M'};
  if (view.u16(2) != 42) return 1;
  const std::size_t ifd = view.u32(4);
  const std::size_t entries = view.u16(ifd);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = ifd + 2 + i * 12;
    if (entry + 12 > tiff.size()) return 1;
    if (view.u16(entry) != kOrientation) continue;
    const std::uint32_t value = view.u16(entry + 8);
    return view.u16(entry + 2) == kShort && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image apply_orientation(Image image, int orientation) {
  using Place = std::pair<std::int64_t, std::int64_t>;
  const std::int64_t bottom = image.height - 1, right = image.width - 1;
  switch (orientation) {
    case 2:
      return rearrange(image, false, [=](auto y, auto x) { return Place{y, right - x}; });
    case 3:
      return rearrange(image, false, [=](auto y, auto x) { return Place{bottom - y, right - x}; });
    case 4:
      return rearrange(image, false, [=](auto y, auto x) { return Place{bottom - y, x}; });
    case 5:
      return rearrange(image, true, [=](auto y, auto x) { return Place{x, y}; });
    case 6:
      return rearrange(image, true, [=](auto y, auto x) { return Place{bottom - x, y}; });
    case 7:
      return rearrange(image, true, [=](auto y, auto x) { return Place{bottom - x, right - y}; });
    case 8:
      return rearrange(image, true, [=](auto y, auto x) { return Place{x, right - y}; });
    default:
      return image;
  }
}

}  // namespace tessera::image
