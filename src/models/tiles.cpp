#include "tessera/models/tiles.hpp"
#include "tessera/nn/upload.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "json_fields.hpp"

namespace tessera::models {
namespace {

constexpr std::int64_t kNewline = -1;

struct Grid {
  std::int64_t rows, columns;
};

/// Of tiles, for a picture that has more than the squeezed one.
Grid grid_of(const TileConfig& config, image::Size picture) {
  const image::Size best = image::best_resolution(picture, config.pinpoints);
  const auto along = [&](std::int64_t pixels) { return (pixels + config.tile - 1) / config.tile; };
  return {along(best.height), along(best.width)};
}

std::int64_t side_of(const TileConfig& config) {
  return std::llround(std::sqrt(static_cast<double>(config.features)));
}

/// The part of the grid's features [rows, columns] that is the picture's.
struct Window {
  std::int64_t top, bottom, left, right;
  std::int64_t rows() const { return bottom - top; }
  std::int64_t columns() const { return right - left; }
};

/// What is left of a side of `pixels`, scaled, and so of the padding before and behind it.
std::int64_t padding(std::int64_t pixels, double scale, std::int64_t whole, bool rounds) {
  constexpr double kSevenPlaces = 1e7;
  double left = static_cast<double>(pixels) * scale;
  if (rounds) left = std::round(left * kSevenPlaces) / kSevenPlaces;
  return (whole - static_cast<std::int64_t>(left)) / 2;
}

Window window_of(const TileConfig& config, const Grid& grid, image::Size picture) {
  const std::int64_t side = side_of(config);
  Window w{0, grid.rows * side, 0, grid.columns * side};
  if (config.merge != PatchMerge::spatial_unpad) return w;
  const auto width = static_cast<double>(picture.width), height = static_cast<double>(picture.height);
  const auto columns = static_cast<double>(w.right), rows = static_cast<double>(w.bottom);
  if (width / height > columns / rows) {
    w.top = padding(picture.height, columns / width, w.bottom, config.rounds);
    w.bottom -= w.top;
  } else {
    w.left = padding(picture.width, rows / height, w.right, config.rounds);
    w.right -= w.left;
  }
  return w;
}

void check_tiles(const TileConfig& config, const TiledPicture& picture) {
  if (picture.tiles == 1) return;
  if (picture.size.height < 1 || picture.size.width < 1) {
    throw RequestError("a picture in {} tiles has the size {} x {}", picture.tiles, picture.size.width,
                       picture.size.height);
  }
  const std::int64_t wanted = config.picture(picture.size).tiles;
  if (picture.tiles != wanted) {
    throw RequestError("a picture of {} x {} pixels is in {} tiles, image_grid_pinpoints make it {}",
                       picture.size.width, picture.size.height, picture.tiles, wanted);
  }
}

/// The rows of [tiles * P] features, or kNewline, that one picture's positions take; its first tile is number `first`.
void append_positions(const TileConfig& config, const TiledPicture& picture, std::int64_t first,
                      std::vector<std::int64_t>& rows) {
  const auto append = [&](std::int64_t tile, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) rows.push_back((first + tile) * config.features + i);
  };
  if (config.merge == PatchMerge::flat) return append(0, picture.tiles * config.features);
  append(0, config.features);
  const bool newlines = config.merge == PatchMerge::spatial_unpad;
  if (picture.tiles == 1) {
    if (newlines) rows.push_back(kNewline);
    return;
  }
  const Grid grid = grid_of(config, picture.size);
  const Window window = window_of(config, grid, picture.size);
  const std::int64_t side = side_of(config);
  for (std::int64_t y = window.top; y < window.bottom; ++y) {
    for (std::int64_t x = window.left; x < window.right; ++x) {
      const std::int64_t tile = first + 1 + y / side * grid.columns + x / side;
      rows.push_back(tile * config.features + y % side * side + x % side);
    }
    if (newlines) rows.push_back(kNewline);
  }
}

bool is_anyres(const JsonFields& fields) {
  const auto found = fields.json().find("image_aspect_ratio");
  if (found == fields.json().end() || !found->is_string()) return false;
  const auto aspect = found->get<std::string>();
  if (aspect.find("anyres_max") == std::string::npos) return aspect == "anyres";
  // The reference has no way to place such tiles, others make fewer features of them.
  if (patch_merge_from_name(fields.text("mm_patch_merge_type", "flat")) != PatchMerge::flat) {
    throw RequestError("{}: image_aspect_ratio {} has mm_patch_merge_type flat alone; anyres has the others",
                       fields.where(), aspect);
  }
  return true;
}

void check(const TileConfig& config, const VisionTowerConfig& tower, const std::string& where) {
  if (config.merge == PatchMerge::flat) return;
  const std::int64_t side = side_of(config);
  if (side * side != config.features || (!tower.fastvit && tower.class_token)) {
    throw RequestError("{}: {} features of a tile are no square to be laid side by side{}", where, config.features,
                       tower.class_token ? "; leave the class token out" : "");
  }
  for (const image::Size grid : config.pinpoints) {
    if (grid.height % config.tile == 0 && grid.width % config.tile == 0) continue;
    throw RequestError("{}: image_grid_pinpoints: {} x {} is no grid of tiles of {} pixels", where, grid.width,
                       grid.height, config.tile);
  }
}

image::GridPinpoints read_pinpoints(const JsonFields& fields, std::int64_t tile) {
  const auto& value = fields.json().at("image_grid_pinpoints");
  return image::pinpoints_from_text(value.is_string() ? value.get<std::string>() : value.dump(), tile, fields.where());
}

}  // namespace

PatchMerge patch_merge_from_name(std::string_view name) {
  if (name == "flat") return PatchMerge::flat;
  if (name == "spatial") return PatchMerge::spatial;
  if (name == "spatial_unpad") return PatchMerge::spatial_unpad;
  throw RequestError("mm_patch_merge_type '{}' is none of flat, spatial, spatial_unpad", name);
}

std::optional<TileConfig> TileConfig::from_original(const nlohmann::json& json, const VisionTowerConfig& tower) {
  const JsonFields fields(json, "config.json");
  if (!is_anyres(fields)) return std::nullopt;
  if (!fields.has("image_grid_pinpoints")) {
    throw RequestError(
        "config.json: image_aspect_ratio anyres needs image_grid_pinpoints, such as "
        "[[336, 672], [672, 336]]; training takes --image_grid_pinpoints");
  }
  TileConfig config;
  config.merge = patch_merge_from_name(fields.text("mm_patch_merge_type", "flat"));
  config.tile = tower.image_size();
  config.features = tower.tokens();
  config.pinpoints = read_pinpoints(fields, config.tile);
  check(config, tower, fields.where());
  return config;
}

TileConfig TileConfig::from_transformers(const nlohmann::json& json, const VisionTowerConfig& tower) {
  const JsonFields fields(json, "config.json");
  TileConfig config;
  config.merge = PatchMerge::spatial_unpad;
  config.rounds = true;
  config.tile = tower.image_size();
  config.features = tower.tokens();
  config.pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
  if (fields.has("image_grid_pinpoints")) {
    config.pinpoints = read_pinpoints(fields, config.tile);
    for (image::Size& grid : config.pinpoints) std::swap(grid.height, grid.width);
  }
  check(config, tower, fields.where());
  return config;
}

TiledPicture TileConfig::picture(image::Size size) const {
  const Grid grid = grid_of(*this, size);
  return {1 + grid.rows * grid.columns, size};
}

std::int64_t TileConfig::positions(const TiledPicture& picture) const {
  check_tiles(*this, picture);
  if (merge == PatchMerge::flat) return picture.tiles * features;
  const std::int64_t newline = merge == PatchMerge::spatial_unpad ? 1 : 0;
  if (picture.tiles == 1) return features + newline;
  const Window window = window_of(*this, grid_of(*this, picture.size), picture.size);
  return features + window.rows() * (window.columns() + newline);
}

at::Tensor merge_tiles(const TileConfig& config, const std::vector<TiledPicture>& pictures, const at::Tensor& features,
                       const at::Tensor& newline) {
  std::vector<std::int64_t> rows;
  std::int64_t first = 0;
  for (const TiledPicture& picture : pictures) {
    append_positions(config, picture, first, rows);
    first += picture.tiles;
  }
  if (pictures.empty()) {  // newline stays in the graph, with a gradient of zero
    if (!newline.defined()) return features;
    rows.resize(static_cast<std::size_t>(features.size(0) * config.features));
    std::iota(rows.begin(), rows.end(), 0);
  }
  const at::Tensor index = nn::upload(at::tensor(rows, at::kLong), features.device());
  const at::Tensor taken = features.flatten(0, 1).index_select(0, index.clamp_min(0));
  if (!newline.defined()) return taken;
  // Not a row of index_select: its gradient is then one sum, in one order on every device.
  const at::Tensor merged = at::where(index.eq(kNewline).unsqueeze(1), newline.to(taken.scalar_type()), taken);
  return pictures.empty() ? merged.view_as(features) : merged;
}

}  // namespace tessera::models
