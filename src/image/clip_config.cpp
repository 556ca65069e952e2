#include <cctype>
#include <charconv>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/image/preprocess.hpp"

namespace tessera::image {
namespace {

using Json = nlohmann::json;

[[noreturn]] void refuse(std::string_view label, std::string_view key, const Json& value, std::string_view wanted) {
  throw RequestError("{}: '{}' is {}, {} expected", label, key, value.dump(), wanted);
}

std::int64_t side(const Json& value, std::string_view label, std::string_view key) {
  constexpr std::int64_t kMaxSide = 1 << 16;
  if (!value.is_number_integer() || value.get<std::int64_t>() < 1 || value.get<std::int64_t>() > kMaxSide) {
    refuse(label, key, value, "a side between 1 and 65536");
  }
  return value.get<std::int64_t>();
}

bool is_rectangle(const Json& value) {
  return value.is_object() && value.contains("height") && value.contains("width");
}

Size rectangle(const Json& value, std::string_view label, std::string_view key) {
  return {side(value["height"], label, key), side(value["width"], label, key)};
}

void read_flag(const Json& json, const char* key, std::string_view label, bool& flag) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  if (!it->is_boolean()) refuse(label, key, *it, "true or false");
  flag = it->get<bool>();
}

void read_colour(const Json& json, const char* key, std::string_view label, std::array<double, 3>& colour) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  if (!it->is_array() || it->size() != 3) refuse(label, key, *it, "a list of three numbers");
  for (std::size_t c = 0; c < 3; ++c) {
    if (!(*it)[c].is_number()) refuse(label, key, *it, "a list of three numbers");
    colour[c] = (*it)[c].get<double>();
  }
}

void read_size(const Json& json, std::string_view label, ClipImageConfig& config) {
  const auto it = json.find("size");
  if (it == json.end() || it->is_null()) return;
  if (it->is_number()) {
    config.shortest_edge = side(*it, label, "size");
  } else if (it->is_object() && it->contains("shortest_edge")) {
    config.shortest_edge = side((*it)["shortest_edge"], label, "size.shortest_edge");
  } else if (is_rectangle(*it)) {
    config.shortest_edge = 0;
    config.fixed = rectangle(*it, label, "size");
  } else {
    refuse(label, "size", *it, "a number, {\"shortest_edge\": n} or {\"height\": h, \"width\": w}");
  }
}

void read_crop(const Json& json, std::string_view label, ClipImageConfig& config) {
  const auto it = json.find("crop_size");
  if (it == json.end() || it->is_null()) return;
  if (it->is_number()) {
    const std::int64_t edge = side(*it, label, "crop_size");
    config.crop = {edge, edge};
  } else if (is_rectangle(*it)) {
    config.crop = rectangle(*it, label, "crop_size");
  } else {
    refuse(label, "crop_size", *it, "a number or {\"height\": h, \"width\": w}");
  }
}

/// "(1x1),...,(6x6)": every grid from the first to the last.
GridPinpoints grid_range(std::string_view text, std::int64_t tile, std::string_view label) {
  std::vector<std::int64_t> numbers;
  for (std::size_t i = 0; i < text.size();) {
    if (std::isdigit(static_cast<unsigned char>(text[i])) == 0) {
      ++i;
      continue;
    }
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), number);
    if (error != std::errc() || number < 1 || number > 64) break;
    numbers.push_back(number);
    i = static_cast<std::size_t>(end - text.data());
  }
  if (numbers.size() != 4 || numbers[0] > numbers[2] || numbers[1] > numbers[3]) {
    throw RequestError("{}: '{}' is no range of grids such as (1x1),...,(6x6)", label, text);
  }
  GridPinpoints pinpoints;
  for (std::int64_t w = numbers[0]; w <= numbers[2]; ++w) {
    for (std::int64_t h = numbers[1]; h <= numbers[3]; ++h) pinpoints.push_back({h * tile, w * tile});
  }
  return pinpoints;
}

}  // namespace

Aspect aspect_from_name(std::string_view name) {
  if (name == "square") return Aspect::square;
  if (name == "pad") return Aspect::pad;
  if (name == "anyres" || name.find("anyres_max") != std::string_view::npos) return Aspect::anyres;
  throw RequestError("image aspect '{}' is none of square, pad, anyres", name);
}

ClipImageConfig clip_config_from_json(std::string_view text, std::string_view label) {
  const JsonView document = parse_json(text, std::string(label));
  const Json& json = document.raw();
  if (!json.is_object()) throw RequestError("{}: this is no JSON object", label);
  ClipImageConfig config;
  read_flag(json, "do_resize", label, config.resize);
  read_flag(json, "do_center_crop", label, config.center_crop);
  read_flag(json, "do_rescale", label, config.rescale);
  read_flag(json, "do_normalize", label, config.normalize);
  read_size(json, label, config);
  read_crop(json, label, config);
  read_colour(json, "image_mean", label, config.mean);
  read_colour(json, "image_std", label, config.std);
  for (const double deviation : config.std) {
    if (deviation == 0.0) refuse(label, "image_std", json["image_std"], "numbers other than 0");
  }
  if (const auto it = json.find("resample"); it != json.end() && !it->is_null()) {
    if (!it->is_number_integer() || *it < 0 || *it > 5) refuse(label, "resample", *it, "one of Pillow's filters 0 … 5");
    config.resample = static_cast<Filter>(it->get<int>());
  }
  if (const auto it = json.find("rescale_factor"); it != json.end() && !it->is_null()) {
    if (!it->is_number()) refuse(label, "rescale_factor", *it, "a number");
    config.rescale_factor = it->get<double>();
  }
  return config;
}

ClipImageConfig unit_image_config(std::int64_t size) {
  ClipImageConfig config;
  config.mean = {0, 0, 0};
  config.std = {1, 1, 1};
  return with_size(config, size);
}

ClipImageConfig with_size(ClipImageConfig config, std::int64_t size) {
  if (size < 1) throw RequestError("image size {} is not positive", size);
  if (config.shortest_edge == 0) {
    config.fixed = {size, size};
  } else {
    config.shortest_edge = size;
  }
  config.crop = {size, size};
  return config;
}

GridPinpoints pinpoints_from_text(std::string_view text, std::int64_t tile, std::string_view label) {
  if (text.find('x') != std::string_view::npos) return grid_range(text, tile, label);
  std::string list(text);
  for (char& c : list) c = c == '(' ? '[' : c == ')' ? ']' : c;  // a Python list of pairs
  const JsonView document = parse_json(list, std::string(label));
  const Json& json = document.raw();
  if (!json.is_array() || json.empty())
    throw RequestError("{}: image_grid_pinpoints '{}' is no list of [width, height]", label, text);
  GridPinpoints pinpoints;
  for (const Json& pair : json) {
    if (!pair.is_array() || pair.size() != 2) refuse(label, "image_grid_pinpoints", pair, "[width, height]");
    pinpoints.push_back({side(pair[1], label, "image_grid_pinpoints"), side(pair[0], label, "image_grid_pinpoints")});
  }
  return pinpoints;
}

}  // namespace tessera::image
