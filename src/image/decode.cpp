#include <algorithm>
#include <string>

#include "codec.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image {
namespace {

bool starts_with(Bytes bytes, std::string_view magic, std::size_t at = 0) {
  return bytes.size() >= at + magic.size() &&
         std::equal(magic.begin(), magic.end(), bytes.begin() + at,
                    [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
}

std::string first_bytes(Bytes bytes) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 4); ++i)
    text += fmt::format("{}{:02x}", i ? " " : "", bytes[i]);
  return text;
}

/// Formats that are known but not read, so that the message can say what the file is.
std::string_view foreign_format(Bytes bytes) {
  if (starts_with(bytes, "GIF8")) return "GIF";
  if (starts_with(bytes, "BM")) return "BMP";
  if (starts_with(bytes, std::string_view("II*\0", 4)) || starts_with(bytes, std::string_view("MM\0*", 4)))
    return "TIFF";
  if (starts_with(bytes, "ftypavif", 4)) return "AVIF";
  if (starts_with(bytes, "ftyphei", 4)) return "HEIF";
  if (bytes.size() > 2 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '7' && bytes[2] <= ' ') return "PNM";
  return {};
}

Format format_of(Bytes bytes, std::string_view label) {
  if (starts_with(bytes, "\xff\xd8")) return Format::jpeg;
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) return Format::png;
  if (starts_with(bytes, "RIFF") && starts_with(bytes, "WEBP", 8)) return Format::webp;
  if (bytes.empty()) throw RequestError("{}: the image file is empty", label);
  if (const auto foreign = foreign_format(bytes); !foreign.empty()) {
    throw RequestError("{}: this is a {} image; only JPEG, PNG and WebP are read, convert it", label, foreign);
  }
  throw RequestError("{}: not a JPEG, PNG or WebP image (first bytes {})", label, first_bytes(bytes));
}

}  // namespace

namespace codec {

void check_size(Size size, std::string_view label, const DecodeOptions& options) {
  if (size.height <= 0 || size.width <= 0) {
    throw RequestError("{}: image of {} x {} pixels (width x height)", label, size.width, size.height);
  }
  if (size.height > options.max_pixels / size.width) {
    throw RequestError("{}: image of {} x {} pixels (width x height) is beyond the limit of {} pixels", label,
                       size.width, size.height, options.max_pixels);
  }
}

void check_plausible(Size size, std::int64_t holds, std::int64_t bytes, std::string_view label) {
  if (size.height * size.width > holds) {
    throw RequestError("{}: the file is truncated: {} bytes cannot hold {} x {} pixels (width x height)", label, bytes,
                       size.width, size.height);
  }
}

}  // namespace codec

std::string_view name_of(Format format) noexcept {
  switch (format) {
    case Format::jpeg:
      return "JPEG";
    case Format::png:
      return "PNG";
    case Format::webp:
      return "WebP";
  }
  return "unknown";
}

Header probe(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  Header header;
  switch (format_of(bytes, label)) {
    case Format::jpeg:
      header = codec::probe_jpeg(bytes, label);
      break;
    case Format::png:
      header = codec::probe_png(bytes, label);
      break;
    case Format::webp:
      header = codec::probe_webp(bytes, label);
      break;
  }
  codec::check_size(header.size, label, options);
  return header;
}

Image decode(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  const int orientation = options.exif_orientation ? probe(bytes, label, options).orientation : 1;
  switch (format_of(bytes, label)) {
    case Format::jpeg:
      return apply_orientation(codec::decode_jpeg(bytes, label, options), orientation);
    case Format::png:
      return apply_orientation(codec::decode_png(bytes, label, options), orientation);
    case Format::webp:
      break;
  }
  return apply_orientation(codec::decode_webp(bytes, label, options), orientation);
}

Header check_sound(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  if (format_of(bytes, label) == Format::jpeg) return codec::check_jpeg(bytes, label, options);
  decode(bytes, label, options);
  return probe(bytes, label, options);
}

LabelMap decode_label_map(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  const Format format = format_of(bytes, label);
  if (format != Format::png) {
    throw RequestError("{}: a label map must be a PNG file, this is {}", label, name_of(format));
  }
  return codec::decode_png_labels(bytes, label, options);
}

}  // namespace tessera::image
