#pragma once
/// What the image tests share: goldens as JSON, the goldens' noise generator and checksum. Goldens and their scripts:
/// tests/golden/image/.
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/image.hpp"

namespace tessera::image::testing_support {

using Json = nlohmann::json;

inline std::filesystem::path golden_folder() {
  return std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/image/data";
}

inline Json golden(const std::string& name) {
  return Json::parse(tessera::testing_support::read_file(golden_folder() / (name + ".json")));
}

inline std::string image_file(const std::string& name) {
  return tessera::testing_support::read_file(golden_folder() / "images" / name);
}

template <class T>
std::uint32_t checksum(const std::vector<T>& values) {
  return static_cast<std::uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(values.data()), static_cast<uInt>(values.size() * sizeof(T))));
}

/// The goldens' generator: top byte of each state of Numerical Recipes' linear congruential generator.
inline std::vector<std::uint8_t> noise(std::int64_t count, std::uint32_t seed) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(count));
  std::uint32_t state = seed;
  for (auto& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<std::uint8_t>(state >> 24);
  }
  return values;
}

inline Image noise_image(std::int64_t height, std::int64_t width, std::uint32_t seed) {
  Image image(height, width);
  image.rgb = noise(height * width * 3, seed);
  return image;
}

/// The text of the RequestError that `action` throws, "" when it throws none. Another exception passes through.
template <class Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const RequestError& error) {
    return error.what();
  }
  return {};
}

}  // namespace tessera::image::testing_support
