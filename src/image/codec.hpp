#pragma once
/// One reader per format behind decode() and probe(). All refuse a size beyond the limit before allocating.
#include <string_view>

#include "tessera/image/image.hpp"

namespace tessera::image::codec {

Header probe_jpeg(Bytes bytes, std::string_view label);
Header check_jpeg(Bytes bytes, std::string_view label, const DecodeOptions& options);
Image decode_jpeg(Bytes bytes, std::string_view label, const DecodeOptions& options);

Header probe_png(Bytes bytes, std::string_view label);
Image decode_png(Bytes bytes, std::string_view label, const DecodeOptions& options);
LabelMap decode_png_labels(Bytes bytes, std::string_view label, const DecodeOptions& options);

Header probe_webp(Bytes bytes, std::string_view label);
Image decode_webp(Bytes bytes, std::string_view label, const DecodeOptions& options);

/// Throws RequestError when height * width is beyond the limit or a side is 0.
void check_size(Size size, std::string_view label, const DecodeOptions& options);

/// A header may promise more pixels than its file can hold; to be asked before memory of their size is taken.
/// `holds`: the most pixels that the file's bytes could code.
void check_plausible(Size size, std::int64_t holds, std::int64_t bytes, std::string_view label);

inline std::uint32_t big32(const std::uint8_t* p) noexcept {
  return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}
inline std::uint32_t little32(const std::uint8_t* p) noexcept {
  return std::uint32_t{p[3]} << 24 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[1]} << 8 | p[0];
}

}  // namespace tessera::image::codec
