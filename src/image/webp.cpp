// WebP through libwebp; the first frame of an animation through its demultiplexer, as Pillow does.
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstring>
#include <memory>

#include "codec.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image::codec {
namespace {

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_BITSTREAM_ERROR:
      return "the coded data is corrupt";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses an unsupported feature";
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "the file ends early";
    default:
      return "the header is malformed";
  }
}

[[noreturn]] void refuse(std::string_view label, VP8StatusCode status) {
  throw RequestError("{}: {}: {}", label,
                     status == VP8_STATUS_NOT_ENOUGH_DATA ? "the WebP is truncated" : "the WebP cannot be decoded",
                     reason(status));
}

WebPBitstreamFeatures features_of(Bytes bytes, std::string_view label) {
  WebPBitstreamFeatures features;
  if (const auto status = WebPGetFeatures(bytes.data(), bytes.size(), &features); status != VP8_STATUS_OK)
    refuse(label, status);
  return features;
}

/// The length that the RIFF header promises must be there: libwebp accepts files whose last bytes are missing.
void check_length(Bytes bytes, std::string_view label) {
  if (bytes.size() < 12 || little32(&bytes[4]) > bytes.size() - 8) refuse(label, VP8_STATUS_NOT_ENOUGH_DATA);
}

int orientation_of(Bytes bytes) {
  std::size_t at = 12;
  while (bytes.size() - at >= 8) {
    const std::size_t length = little32(&bytes[at + 4]);
    if (length > bytes.size() - at - 8) return 1;
    if (std::memcmp(&bytes[at], "EXIF", 4) == 0) {
      Bytes exif = bytes.subspan(at + 8, length);
      if (exif.size() > 6 && std::memcmp(exif.data(), "Exif\0", 6) == 0) exif = exif.subspan(6);
      return exif_orientation(exif);
    }
    const std::size_t step = 8 + length + length % 2;
    if (step > bytes.size() - at) return 1;
    at += step;
  }
  return 1;
}

Image first_frame(Bytes bytes, std::string_view label, Size size) {
  const WebPData data{bytes.data(), bytes.size()};
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options)) throw RunError("libwebpdemux is of another version than its header");
  options.color_mode = MODE_RGBA;
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(WebPAnimDecoderNew(&data, &options),
                                                                                   WebPAnimDecoderDelete);
  std::uint8_t* canvas = nullptr;
  int stamp = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &canvas, &stamp)) refuse(label, VP8_STATUS_BITSTREAM_ERROR);
  Image image(size.height, size.width);
  for (std::int64_t i = 0; i < size.height * size.width; ++i)
    std::memcpy(&image.rgb[static_cast<std::size_t>(3 * i)], canvas + 4 * i, 3);
  return image;
}

}  // namespace

Header probe_webp(Bytes bytes, std::string_view label) {
  const auto features = features_of(bytes, label);
  Header header{.format = Format::webp, .size = {features.height, features.width}};
  header.channels = features.has_alpha ? 4 : 3;
  header.orientation = orientation_of(bytes);
  return header;
}

Image decode_webp(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  const auto features = features_of(bytes, label);
  const Size size{features.height, features.width};
  check_size(size, label, options);
  check_length(bytes, label);
  // A macroblock's modes cost more than a bit: their trees have fixed probabilities (RFC 6386, 11.2). Lossless coding
  // has no such bound: a picture of one colour takes no bits.
  constexpr int kLossy = 1;
  if (features.format == kLossy) check_plausible(size, (std::ssize(bytes) * 8 + 64) * 256, std::ssize(bytes), label);
  if (features.has_animation) return first_frame(bytes, label, size);

  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) throw RunError("libwebp is of another version than its header");
  Image image(size.height, size.width);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {image.rgb.data(), static_cast<int>(image.width * 3), image.rgb.size()};
  const auto status = WebPDecode(bytes.data(), bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  if (status != VP8_STATUS_OK) refuse(label, status);
  return image;
}

}  // namespace tessera::image::codec
