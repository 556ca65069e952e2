// JPEG through libjpeg(-turbo), with the defaults that Pillow uses: accurate integer DCT, smooth chroma upsampling.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

#include <jerror.h>  // after jpeglib.h: some of its codes depend on what that declares

#include "codec.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image::codec {
namespace {

/// A progressive file may repeat scans without end; Pillow's encoder writes 10, the worst honest files some dozens.
constexpr int kMaxScans = 500;

struct ErrorManager {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer to it is a pointer to us
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* error = reinterpret_cast<ErrorManager*>(info->err);
  error->base.format_message(info, error->message);
  std::longjmp(error->escape, 1);
}

/// libjpeg goes on after damage and paints grey; these warnings mean that pixels are lost.
bool loses_pixels(int code) {
  return code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE ||
         code == JWRN_ARITH_BAD_CODE || code == JWRN_MUST_RESYNC;
}

void on_message(j_common_ptr info, int level) {
  if (level < 0 && loses_pixels(info->err->msg_code)) leave(info);
}

void on_progress(j_common_ptr info) {
  const auto* reader = reinterpret_cast<j_decompress_ptr>(info);
  if (reader->input_scan_number > kMaxScans) {
    auto* error = reinterpret_cast<ErrorManager*>(info->err);
    std::snprintf(error->message, sizeof error->message, "more than %d scans", kMaxScans);
    std::longjmp(error->escape, 1);
  }
}

/// Owns the decompressor. Every libjpeg call happens inside a function that has no destructors to run, because libjpeg
/// reports errors by longjmp.
class Reader {
 public:
  Reader() {
    std::memset(&info_, 0, sizeof info_);
    std::memset(&error_, 0, sizeof error_);
    info_.err = jpeg_std_error(&error_.base);
    error_.base.error_exit = leave;
    error_.base.emit_message = on_message;
    progress_.progress_monitor = on_progress;
  }
  ~Reader() { jpeg_destroy_decompress(&info_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  bool read_header(const std::uint8_t* data, std::size_t size) {
    if (setjmp(error_.escape)) return false;
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(&info_, data, static_cast<unsigned long>(size));
    jpeg_read_header(&info_, TRUE);
    return true;
  }

  bool start(J_COLOR_SPACE space, unsigned shrink = 1) {
    if (setjmp(error_.escape)) return false;
    info_.out_color_space = space;
    info_.scale_denom = info_.scale_num * shrink;
    jpeg_start_decompress(&info_);
    return true;
  }

  bool read_rows(std::uint8_t* pixels, std::size_t row_bytes, std::uint32_t first, std::uint32_t last) {
    if (setjmp(error_.escape)) return false;
    for (std::uint32_t y = first; y < last; ++y) {
      JSAMPROW row = pixels + row_bytes * (y - first);
      jpeg_read_scanlines(&info_, &row, 1);
    }
    return true;
  }

  /// Reads on to the end-of-image marker, so that a file cut just before it counts as cut.
  bool finish() {
    if (setjmp(error_.escape)) return false;
    jpeg_finish_decompress(&info_);
    return true;
  }

  const jpeg_decompress_struct& info() const { return info_; }
  bool cut_short() const { return error_.base.msg_code == JWRN_JPEG_EOF || error_.base.msg_code == JERR_INPUT_EOF; }
  const char* message() const { return error_.message; }

 private:
  jpeg_decompress_struct info_;
  ErrorManager error_;
  jpeg_progress_mgr progress_{};
};

[[noreturn]] void refuse(const Reader& reader, std::string_view label) {
  throw RequestError("{}: {}: {}", label, reader.cut_short() ? "the JPEG is truncated" : "the JPEG cannot be decoded",
                     reader.message());
}

int orientation_of(const jpeg_decompress_struct& info) {
  static constexpr char kExif[] = "Exif\0";  // with its own terminator six bytes
  for (auto* marker = info.marker_list; marker; marker = marker->next) {
    if (marker->marker == JPEG_APP0 + 1 && marker->data_length > 6 && std::memcmp(marker->data, kExif, 6) == 0) {
      return exif_orientation({marker->data + 6, marker->data_length - 6});
    }
  }
  return 1;
}

Header header_of(const Reader& reader) {
  const auto& info = reader.info();
  Header header{.format = Format::jpeg, .size = {info.image_height, info.image_width}};
  header.channels = info.num_components;
  header.bit_depth = info.data_precision;
  header.orientation = orientation_of(info);
  return header;
}

void open(Reader& reader, Bytes bytes, std::string_view label) {
  if (!reader.read_header(bytes.data(), bytes.size())) refuse(reader, label);
}

void grey_to_rgb(const std::uint8_t* grey, std::uint8_t* rgb, std::int64_t pixels) {
  for (std::int64_t i = 0; i < pixels; ++i) rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = grey[i];
}

/// Adobe stores inverted inks, so a stored value v stands for ink 255 - v; then the usual ink model, as Pillow rounds
/// it.
void cmyk_to_rgb(const std::uint8_t* cmyk, std::uint8_t* rgb, std::int64_t pixels) {
  const auto times = [](unsigned a, unsigned b) {
    const unsigned t = a * b + 128;
    return ((t >> 8) + t) >> 8;
  };
  for (std::int64_t i = 0; i < pixels; ++i) {
    const unsigned light = cmyk[4 * i + 3];
    for (int c = 0; c < 3; ++c)
      rgb[3 * i + c] = static_cast<std::uint8_t>(light - times(255U - cmyk[4 * i + c], light));
  }
}

}  // namespace

Header probe_jpeg(Bytes bytes, std::string_view label) {
  Reader reader;
  open(reader, bytes, label);
  return header_of(reader);
}

namespace {

/// Opens a picture whose header can be true, to be decoded to `space`.
Header open_plausible(Reader& reader, J_COLOR_SPACE& space, Bytes bytes, std::string_view label,
                      const DecodeOptions& options) {
  open(reader, bytes, label);
  const Header header = header_of(reader);
  check_size(header.size, label, options);
  if (header.channels != 1 && header.channels != 3 && header.channels != 4) {
    throw RequestError("{}: a JPEG of {} components is not supported (1, 3 or 4 are)", label, header.channels);
  }
  // A Huffman-coded block group takes a bit at least and covers 32 x 32 pixels at most; arithmetic coding has no such
  // bound.
  if (!reader.info().arith_code)
    check_plausible(header.size, (std::ssize(bytes) * 8 + 64) * 1024, std::ssize(bytes), label);
  space = header.channels == 1 ? JCS_GRAYSCALE : header.channels == 3 ? JCS_RGB : JCS_CMYK;
  return header;
}

}  // namespace

Header check_jpeg(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  constexpr unsigned kShrink = 8;  // damage shows in the coefficients, which are read all the same
  Reader reader;
  J_COLOR_SPACE space{};
  const Header header = open_plausible(reader, space, bytes, label, options);
  if (!reader.start(space, kShrink)) refuse(reader, label);
  std::vector<std::uint8_t> row(std::size_t{reader.info().output_width} *
                                static_cast<std::size_t>(reader.info().output_components));
  for (std::uint32_t y = 0; y < reader.info().output_height; ++y) {
    if (!reader.read_rows(row.data(), row.size(), y, y + 1)) refuse(reader, label);
  }
  if (!reader.finish()) refuse(reader, label);
  return header;
}

Image decode_jpeg(Bytes bytes, std::string_view label, const DecodeOptions& options) {
  Reader reader;
  J_COLOR_SPACE space{};
  const Header header = open_plausible(reader, space, bytes, label, options);
  if (!reader.start(space)) refuse(reader, label);

  Image image(header.size.height, header.size.width);
  const auto rows = static_cast<std::uint32_t>(image.height);
  const auto row_bytes = static_cast<std::size_t>(image.width * header.channels);
  if (header.channels == 3) {
    if (!reader.read_rows(image.rgb.data(), row_bytes, 0, rows)) refuse(reader, label);
  } else {
    std::vector<std::uint8_t> row(row_bytes);
    for (std::uint32_t y = 0; y < rows; ++y) {
      if (!reader.read_rows(row.data(), row_bytes, y, y + 1)) refuse(reader, label);
      (header.channels == 1 ? grey_to_rgb : cmyk_to_rgb)(row.data(), image.row(y), image.width);
    }
  }
  if (!reader.finish()) refuse(reader, label);
  return image;
}

}  // namespace tessera::image::codec
