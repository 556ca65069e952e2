// Hostile bytes for the image room: decoders, RLE strings, polygons, processor configurations. A RequestError is the
// right answer; anything else that leaves these functions, and any broken round trip, is a finding.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "tessera/core/error.hpp"
#include "tessera/image/preprocess.hpp"
#include "tessera/image/rle.hpp"

namespace {

using namespace tessera::image;

template <class Action>
void attempt(Action action) {
  try {
    action();
  } catch (const tessera::RequestError&) {
  }
}

void demand(bool holds) {
  if (!holds) std::abort();
}

void check_round_trip(const Rle& rle) {
  demand(rle_from_string(rle_to_string(rle), rle.size(), "again") == rle);
  demand(rle_decode(rle).area() == rle_area(rle));
}

/// Coordinates of small and of absurd size, from pairs of bytes.
std::vector<double> numbers_of(Bytes bytes) {
  std::vector<double> numbers;
  for (std::size_t i = 0; i + 1 < bytes.size() && numbers.size() < 64; i += 2) {
    const double value = static_cast<std::int16_t>(bytes[i] | bytes[i + 1] << 8);
    numbers.push_back(bytes[i] % 16 == 15 ? value * 65521.0 : value / 256.0);
  }
  return numbers;
}

void try_polygon(Bytes bytes) {
  const auto numbers = numbers_of(bytes);
  std::vector<Point> points;
  for (std::size_t i = 0; i + 1 < numbers.size(); i += 2) points.push_back({numbers[i], numbers[i + 1]});
  attempt([&] {
    Mask mask(37, 53);
    check_polygon(points, mask.size(), "polygon");
    fill_polygon(mask, points, 1);
    check_round_trip(rle_encode(mask));
  });
  attempt([&] { check_round_trip(rle_from_polygon(numbers, {37, 53}, "polygon")); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes(data, size);
  const DecodeOptions options{.exif_orientation = true, .max_pixels = 1 << 20};
  attempt([&] { probe(bytes, "input", options); });
  attempt([&] {
    const Image image = decode(bytes, "input", options);
    demand(std::ssize(image.rgb) == image.height * image.width * 3);
    demand(image.size() == probe(bytes, "input", options).oriented());
  });
  attempt([&] { decode_label_map(bytes, "input", options); });
  if (size > 4096) return 0;

  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Size frame{size > 0 ? data[0] % 64 : 0, size > 1 ? data[1] % 64 : 0};
  attempt([&] { check_round_trip(rle_from_string(text.substr(size > 2 ? 2 : size), frame, "rle")); });
  try_polygon(bytes);
  attempt([&] { clip_config_from_json(text, "json"); });
  attempt([&] { pinpoints_from_text(text, 336, "json"); });
  return 0;
}
