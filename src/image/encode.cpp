#include <cstdio>

#include <jpeglib.h>

#include <png.h>

#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tessera/core/error.hpp"
#include "tessera/image/write.hpp"

namespace tessera::image {
namespace {

void check(std::size_t bytes, Size size, int channels) {
  if (size.height <= 0 || size.width <= 0 || size.height > 65500 || size.width > 65500 ||
      bytes != static_cast<std::size_t>(size.height * size.width * channels)) {
    throw RequestError("{} bytes cannot be written as an image of {} x {} pixels of {} bytes", bytes, size.width,
                       size.height, channels);
  }
}

/// Everything that libpng's longjmp may leave behind is trivially destroyed; `out` belongs to the caller.
struct PngJob {
  const std::uint8_t* pixels;
  Size size;
  int channels;
  std::span<const Colour> palette;
  int level;
  std::string* out;
  std::jmp_buf escape;
  char message[256];
};

bool run_png(PngJob& job, png_structp png, png_infop info) {
  if (setjmp(job.escape)) return false;
  png_set_write_fn(
      png, &job,
      [](png_structp p, png_bytep data, std::size_t count) {
        static_cast<PngJob*>(png_get_io_ptr(p))->out->append(reinterpret_cast<const char*>(data), count);
      },
      nullptr);
  png_set_compression_level(png, job.level);
  const int type = job.channels == 3     ? PNG_COLOR_TYPE_RGB
                   : job.palette.empty() ? PNG_COLOR_TYPE_GRAY
                                         : PNG_COLOR_TYPE_PALETTE;
  png_set_IHDR(png, info, static_cast<png_uint_32>(job.size.width), static_cast<png_uint_32>(job.size.height), 8, type,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!job.palette.empty()) {
    png_color colours[256] = {};
    for (std::size_t i = 0; i < job.palette.size(); ++i)
      colours[i] = {job.palette[i][0], job.palette[i][1], job.palette[i][2]};
    png_set_PLTE(png, info, colours, 256);
  }
  png_write_info(png, info);
  for (std::int64_t y = 0; y < job.size.height; ++y) png_write_row(png, job.pixels + y * job.size.width * job.channels);
  png_write_end(png, info);
  return true;
}

std::string write_png(PngJob job) {
  if (job.level < 0 || job.level > 9) throw RequestError("PNG compression level {} is not within 0 … 9", job.level);
  std::string out;
  job.out = &out;
  job.message[0] = 0;
  png_structp png = png_create_write_struct(
      PNG_LIBPNG_VER_STRING, &job,
      [](png_structp p, png_const_charp text) {
        auto* failed = static_cast<PngJob*>(png_get_error_ptr(p));
        std::snprintf(failed->message, sizeof failed->message, "%s", text);
        std::longjmp(failed->escape, 1);
      },
      [](png_structp, png_const_charp) {});
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  const bool done = info && run_png(job, png, info);
  png_destroy_write_struct(&png, &info);
  if (!done)
    throw RunError("PNG of {} x {} pixels could not be encoded: {}", job.size.width, job.size.height, job.message);
  return out;
}

struct JpegError {
  jpeg_error_mgr base;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

bool run_jpeg(jpeg_compress_struct& info, JpegError& error, const std::uint8_t* pixels, Size size, int channels,
              int quality, unsigned char** out, unsigned long* length) {
  if (setjmp(error.escape)) return false;
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, out, length);
  info.image_width = static_cast<JDIMENSION>(size.width);
  info.image_height = static_cast<JDIMENSION>(size.height);
  info.input_components = channels;
  info.in_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPROW>(pixels + std::int64_t{info.next_scanline} * size.width * channels);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  return true;
}

std::string write_jpeg(const std::uint8_t* pixels, Size size, int channels, int quality) {
  if (quality < 1 || quality > 100) throw RequestError("JPEG quality {} is not within 1 … 100", quality);
  jpeg_compress_struct info;
  std::memset(&info, 0, sizeof info);
  JpegError error;
  std::memset(&error, 0, sizeof error);
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = [](j_common_ptr common) {
    auto* failed = reinterpret_cast<JpegError*>(common->err);
    failed->base.format_message(common, failed->message);
    std::longjmp(failed->escape, 1);
  };
  unsigned char* buffer = nullptr;
  unsigned long length = 0;
  const bool done = run_jpeg(info, error, pixels, size, channels, quality, &buffer, &length);
  jpeg_destroy_compress(&info);
  const std::unique_ptr<unsigned char, decltype(&std::free)> owner(buffer, &std::free);
  if (!done) throw RunError("JPEG of {} x {} pixels could not be encoded: {}", size.width, size.height, error.message);
  return {reinterpret_cast<const char*>(buffer), length};
}

PngJob png_job(const std::vector<std::uint8_t>& values, Size size, int channels, std::span<const Colour> palette,
               int level) {
  check(values.size(), size, channels);
  PngJob job{};
  job.pixels = values.data();
  job.size = size;
  job.channels = channels;
  job.palette = palette;
  job.level = level;
  return job;
}

}  // namespace

std::string encode_png(const Image& image, int level) {
  return write_png(png_job(image.rgb, image.size(), 3, {}, level));
}

std::string encode_png_grey(const std::vector<std::uint8_t>& values, Size size, int level) {
  return write_png(png_job(values, size, 1, {}, level));
}

std::string encode_png_labels(const LabelMap& labels, std::span<const Colour> palette, int level) {
  if (palette.empty() || palette.size() > 256)
    throw RequestError("a palette of {} colours; 1 … 256 are possible", palette.size());
  return write_png(png_job(labels.values, labels.size(), 1, palette, level));
}

std::vector<Colour> label_palette() {
  std::vector<Colour> palette(256);
  for (unsigned index = 0; index < 256; ++index) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      const unsigned group = bit / 3, channel = bit % 3;
      if (index >> bit & 1U)
        palette[index][channel] = static_cast<std::uint8_t>(palette[index][channel] | 128U >> group);
    }
  }
  return palette;
}

std::string encode_jpeg(const Image& image, int quality) {
  check(image.rgb.size(), image.size(), 3);
  return write_jpeg(image.rgb.data(), image.size(), 3, quality);
}

std::string encode_jpeg_grey(const std::vector<std::uint8_t>& values, Size size, int quality) {
  check(values.size(), size, 1);
  return write_jpeg(values.data(), size, 1, quality);
}

}  // namespace tessera::image
