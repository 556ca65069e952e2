// Images per second of one core's processor time: decoding, SAM's and CLIP's preprocessing, both from the file's bytes.
//   build/bench_image [--seconds 2] FILE.jpg …
// `python tests/bench/image_pillow.py FILE.jpg …` (Pillow and NumPy) does the same with the same files; run both on the
// same machine. Files are read before the clock starts.
// On a busy core of an AMD EPYC, six photographs of 640 x 480, median of three, images per second here and in Pillow:
// decode 995 and 357, SAM's resize 449 and 91, with normalising 309 and 34, CLIP 1455 and 253, all of it 138 and 27.
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/image/preprocess.hpp"
#include "tessera/image/rle.hpp"

namespace {

using namespace tessera::image;

std::string read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Processor time of this process, so that other programs on the machine do not count.
double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

void time_it(std::string_view name, double seconds, std::size_t files, const std::function<void(std::size_t)>& work) {
  for (std::size_t i = 0; i < files; ++i) work(i);  // warm up
  std::size_t done = 0;
  const double start = cpu_seconds();
  double passed = 0;
  while (passed < seconds) {
    for (std::size_t i = 0; i < files; ++i) work(i);
    done += files;
    passed = cpu_seconds() - start;
  }
  fmt::print("{:<44} {:>9.1f} images/s {:>9.3f} ms\n", name, static_cast<double>(done) / passed,
             1000 * passed / static_cast<double>(done));
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 2;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else {
      files.push_back(read(argv[i]));
    }
  }
  if (files.empty()) {
    fmt::print(stderr, "usage: bench_image [--seconds 2] FILE.jpg …\n");
    return 2;
  }
  std::vector<Image> images;
  for (const auto& file : files) images.push_back(decode(bytes_of(file), "image"));
  fmt::print("{} files, the first of {} x {} pixels\n", files.size(), images[0].width, images[0].height);

  const ClipImageConfig clip;
  std::vector<float> sam(3 * 1024 * 1024), small(3 * 224 * 224);
  time_it("decode", seconds, files.size(), [&](std::size_t i) { decode(bytes_of(files[i]), "image"); });
  time_it("SAM resize to 1024", seconds, files.size(), [&](std::size_t i) { sam_resize(images[i], 1024); });
  time_it("SAM resize to 1024 and normalise", seconds, files.size(),
          [&](std::size_t i) { sam_pixels(images[i], 1024, sam); });
  time_it("CLIP resize to 224, crop, normalise", seconds, files.size(),
          [&](std::size_t i) { clip_pixels(images[i], clip, Aspect::square, small); });
  time_it("all: decode, SAM 1024, CLIP 224", seconds, files.size(), [&](std::size_t i) {
    const Image image = decode(bytes_of(files[i]), "image");
    sam_pixels(image, 1024, sam);
    clip_pixels(image, clip, Aspect::square, small);
  });

  Mask mask(480, 640);
  const std::vector<Point> star{{320, 20}, {420, 460}, {60, 160}, {600, 180}, {160, 460}};
  fill_polygon(mask, star, 1);
  const Rle rle = rle_encode(mask);
  const std::string text = rle_to_string(rle);
  time_it("draw a polygon, 640 x 480", seconds / 4, 1, [&](std::size_t) { fill_polygon(mask, star, 1); });
  time_it("encode RLE, 640 x 480", seconds / 4, 1, [&](std::size_t) { rle_encode(mask); });
  time_it("decode RLE string, 640 x 480", seconds / 4, 1, [&](std::size_t) {
    rle_decode(rle_from_string(text, {480, 640}, "m"));
  });
  return 0;
}
