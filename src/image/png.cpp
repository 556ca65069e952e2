// PNG through libpng. Ancillary chunks are skipped unread: none of them changes the pixels that Pillow gives, and their
// readers are where most of libpng's own trouble has been. Their checksums are still checked.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <png.h>

#include "codec.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image::codec {
namespace {

class Reader {
 public:
  explicit Reader(Bytes bytes) : rest_(bytes) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &Reader::on_error, &Reader::on_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) throw RunError("libpng could not be set up (built for {})", PNG_LIBPNG_VER_STRING);
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  bool read_header() {
    if (setjmp(escape_)) return false;
    png_set_read_fn(png_, this, &Reader::on_read);
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);  // check_size decides
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_read_info(png_, info_);
    return true;
  }

  /// To 8-bit RGB, or to one sample a pixel (`indices`): palette indices, or grey of 8 or 16 bits.
  bool set_up(bool indices) {
    if (setjmp(escape_)) return false;
    const bool is_palette = png_get_color_type(png_, info_) == PNG_COLOR_TYPE_PALETTE;
    if (is_palette) {
      png_set_packing(png_);
    } else {
      if (png_get_bit_depth(png_, info_) < 8) {
        indices&& png_get_bit_depth(png_, info_) == 1 ? png_set_packing(png_) : png_set_expand_gray_1_2_4_to_8(png_);
      }
      if (!indices) {
        png_set_strip_16(png_);
        png_set_strip_alpha(png_);
        png_set_gray_to_rgb(png_);
      }
    }
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  /// Reads the pixels and on to IEND. Row by row: png_read_image wants a table of pointers, which for a picture one
  /// pixel wide is larger than the picture.
  bool read_pixels(png_bytep pixels, std::size_t row_bytes, std::size_t height) {
    if (setjmp(escape_)) return false;
    for (int pass = 0; pass < passes_; ++pass) {
      for (std::size_t y = 0; y < height; ++y) png_read_row(png_, pixels + y * row_bytes, nullptr);
    }
    png_read_end(png_, nullptr);
    return true;
  }

  Header header() const {
    Header header{.format = Format::png, .size = {png_get_image_height(png_, info_), png_get_image_width(png_, info_)}};
    header.channels = png_get_channels(png_, info_);
    header.bit_depth = png_get_bit_depth(png_, info_);
    header.palette = png_get_color_type(png_, info_) == PNG_COLOR_TYPE_PALETTE;
    return header;
  }
  int bits_per_pixel() const { return png_get_channels(png_, info_) * png_get_bit_depth(png_, info_); }
  std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  std::span<const png_color> palette() const {
    png_colorp colours = nullptr;
    int count = 0;
    return png_get_PLTE(png_, info_, &colours, &count)
               ? std::span<const png_color>(colours, static_cast<std::size_t>(count))
               : std::span<const png_color>();
  }
  bool cut_short() const { return cut_short_; }
  const char* message() const { return message_; }

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp text) {
    Reader& reader = *static_cast<Reader*>(png_get_error_ptr(png));
    std::snprintf(reader.message_, sizeof reader.message_, "%s", text);
    std::longjmp(reader.escape_, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep to, std::size_t count) {
    Reader& reader = *static_cast<Reader*>(png_get_io_ptr(png));
    if (count > reader.rest_.size()) {
      reader.cut_short_ = true;
      png_error(png, "the file ends early");
    }
    std::memcpy(to, reader.rest_.data(), count);
    reader.rest_ = reader.rest_.subspan(count);
  }

  Bytes rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  bool cut_short_ = false;
  int passes_ = 1;
  std::jmp_buf escape_;
  char message_[256] = {};
};

/// Deflate expands a byte to 1032 at most.
void check_plausible_png(const Reader& reader, Size size, Bytes bytes, std::string_view label) {
  check_plausible(size, (std::ssize(bytes) * 1032 + 1024) * 8 / reader.bits_per_pixel(), std::ssize(bytes), label);
}

[[noreturn]] void refuse(const Reader& reader, std::string_view label) {
  throw RequestError("{}: {}: {}", label, reader.cut_short() ? "the PNG is truncated" : "the PNG cannot be decoded",
                     reader.message());
}

/// The eXIf chunk, wherever it lies; libpng is told to skip it.
int orientation_of(Bytes bytes) {
  std::size_t at = 8;
  while (bytes.size() - at >= 12) {
    const std::size_t length = big32(&bytes[at]);
    if (length > bytes.size() - at - 12) return 1;
    if (std::memcmp(&bytes[at + 4], "eXIf", 4) == 0) return exif_orientation(bytes.subspan(at + 8, length));
    at += length + 12;
  }
  return 1;
}

void read_all(Reader& reader, std::string_view label, std::uint8_t* pixels, std::int64_t height,
              std::size_t row_bytes) {
  if (reader.row_bytes() != row_bytes)
    throw RunError("{}: libpng gives rows of {} bytes, {} expected", label, reader.row_bytes(), row_bytes);
  if (!reader.read_pixels(pixels, row_bytes, static_cast<std::size_t>(height))) refuse(reader, label);
}

std::vector<std::uint8_t> read_samples(Reader& reader, std::string_view label, Size size,
                                       std::int64_t sample_bytes = 1) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(size.height * size.width * sample_bytes));
  read_all(reader, label, values.data(), size.height, static_cast<std::size_t>(size.width * sample_bytes));
  return values;
}

void paint_palette(Reader& reader, std::string_view label, Image& image) {
  std::uint8_t table[256][3] = {};  // an index beyond the palette is black, as in Pillow
  const auto palette = reader.palette();
  for (std::size_t i = 0; i < palette.size() && i < 256; ++i) {
    table[i][0] = palette[i].red, table[i][1] = palette[i].green, table[i][2] = palette[i].blue;
  }
  std::uint8_t* to = image.rgb.data();
  for (const std::uint8_t index : read_samples(reader, label, image.size())) {
    std::memcpy(to, table[index], 3);
    to += 3;
  }
}

/// Pillow keeps 16-bit grey as numbers and clips them to 255 in convert("RGB"), where every other 16-bit form keeps its
/// high byte.
void paint_grey16(Reader& reader, std::string_view label, Image& image) {
  const auto samples = read_samples(reader, label, image.size(), 2);
  std::uint8_t* to = image.rgb.data();
  for (std::size_t i = 0; i < samples.size(); i += 2, to += 3)
    to[0] = to[1] = to[2] = samples[i] ? 255 : samples[i + 1];
}

}  // namespace

Header probe_png(Bytes bytes, std::string_view label) {
  Reader reader(bytes);
  if (!reader.read_header()) refuse(reader, label);
  Header header = reader.header();
  header.orientation = orientation_of(bytes);
  return header;
}

Image decode_png(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  Reader reader(bytes);
  if (!reader.read_header()) refuse(reader, label);
  const Header header = reader.header();
  check_size(header.size, label, options);
  check_plausible_png(reader, header.size, bytes, label);
  const bool grey16 = header.channels == 1 && header.bit_depth == 16;
  if (!reader.set_up(header.palette || grey16)) refuse(reader, label);
  Image image(header.size.height, header.size.width);
  if (header.palette) {
    paint_palette(reader, label, image);
  } else if (grey16) {
    paint_grey16(reader, label, image);
  } else {
    read_all(reader, label, image.rgb.data(), image.height, static_cast<std::size_t>(image.width * 3));
  }
  return image;
}

LabelMap decode_png_labels(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  Reader reader(bytes);
  if (!reader.read_header()) refuse(reader, label);
  const Header header = reader.header();
  check_size(header.size, label, options);
  check_plausible_png(reader, header.size, bytes, label);
  if (header.channels != 1 || header.bit_depth > 8) {
    throw RequestError("{}: a label map must be a palette or 8-bit grey PNG; this one has {} channels of {} bits",
                       label, header.channels, header.bit_depth);
  }
  if (!reader.set_up(true)) refuse(reader, label);
  return {header.size.height, header.size.width, read_samples(reader, label, header.size)};
}

}  // namespace tessera::image::codec
