#include "tessera/models/tiles.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "json_fields.hpp"
#include "tessera/nn/upload.hpp"

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

/// Python's //.
std::int64_t floor_division(double a, double b) {
  const double exact = (a - std::fmod(a, b)) / b;
  const double below = std::floor(exact);
  return static_cast<std::int64_t>(exact - below > 0.5 ? below + 1 : below);
}

/// What a window is scaled down to.
Grid scaled(const TileConfig& config, const Window& window) {
  const Grid whole{window.rows(), window.columns()};
  if (config.most_tiles == 0) return whole;
  const auto rows = static_cast<double>(whole.rows), columns = static_cast<double>(whole.columns);
  const double times = std::sqrt(rows * columns / static_cast<double>(config.most_tiles * config.features));
  if (times <= 1.1) return whole;
  return {std::max<std::int64_t>(1, floor_division(rows, times)),
          std::max<std::int64_t>(1, floor_division(columns, times))};
}

bool is_smaller(const Grid& grid, const Window& window) {
  return grid.rows != window.rows() || grid.columns != window.columns();
}

/// [to, from]: bilinear interpolation along one side, centres of pixels at halves. A product, unlike the operator for
/// it, has a gradient that is the same in every run.
at::Tensor interpolation(std::int64_t from, std::int64_t to) {
  const at::Tensor weights = at::zeros({to, from}, at::kFloat);
  auto* row = weights.data_ptr<float>();
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (std::int64_t i = 0; i < to; ++i, row += from) {
    const double place = std::max(0.0, (static_cast<double>(i) + 0.5) * scale - 0.5);
    const auto before = std::min(static_cast<std::int64_t>(place), from - 1);
    const auto part = static_cast<float>(place - static_cast<double>(before));
    row[before] += 1 - part;
    row[std::min(before + 1, from - 1)] += part;
  }
  return weights;
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

/// The rows of [tiles * P] features that a window has; the grid's first tile is number `first`.
std::vector<std::int64_t> rows_of(const TileConfig& config, const Grid& grid, const Window& window,
                                  std::int64_t first) {
  const std::int64_t side = side_of(config);
  std::vector<std::int64_t> rows;
  for (std::int64_t y = window.top; y < window.bottom; ++y) {
    for (std::int64_t x = window.left; x < window.right; ++x) {
      const std::int64_t tile = first + y / side * grid.columns + x / side;
      rows.push_back(tile * config.features + y % side * side + x % side);
    }
  }
  return rows;
}

/// The windows that are scaled down, one after another behind the [tiles * P] features.
struct ScaledWindows {
  at::Tensor features;  ///< [tiles * P, D]
  std::int64_t end;     ///< rows so far
  std::vector<at::Tensor> tables{features};

  /// The first of the new rows.
  std::int64_t add(const std::vector<std::int64_t>& rows, const Window& window, const Grid& to) {
    const auto place = features.device();
    const at::Tensor taken = features.index_select(0, nn::upload(at::tensor(rows, at::kLong), place)).to(at::kFloat);
    const at::Tensor down = at::matmul(nn::upload(interpolation(window.rows(), to.rows), place),
                                       taken.reshape({window.rows(), window.columns() * features.size(1)}));
    const at::Tensor both = at::matmul(nn::upload(interpolation(window.columns(), to.columns), place),
                                       down.view({to.rows, window.columns(), features.size(1)}));
    tables.push_back(both.flatten(0, 1).to(features.scalar_type()));
    return std::exchange(end, end + to.rows * to.columns);
  }
};

/// The rows of [tiles * P] features and of scaled windows, or kNewline, that one picture's positions take; its first
/// tile is number `first`.
void append_positions(const TileConfig& config, const TiledPicture& picture, std::int64_t first, ScaledWindows& windows,
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
  const Grid shape = scaled(config, window);
  std::vector<std::int64_t> grid_rows = rows_of(config, grid, window, first + 1);
  if (is_smaller(shape, window)) {
    const auto begin = windows.add(grid_rows, window, shape);
    grid_rows.resize(static_cast<std::size_t>(shape.rows * shape.columns));
    std::iota(grid_rows.begin(), grid_rows.end(), begin);
  }
  for (std::size_t i = 0; i < grid_rows.size(); ++i) {
    rows.push_back(grid_rows[i]);
    if (newlines && static_cast<std::int64_t>(i + 1) % shape.columns == 0) rows.push_back(kNewline);
  }
}

std::string aspect_of(const JsonFields& fields) {
  const auto found = fields.json().find("image_aspect_ratio");
  return found != fields.json().end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_anyres(const std::string& aspect) {
  return aspect == "anyres" || aspect.find("anyres_max") != std::string::npos;
}

/// N of anyres_max_N; 0: it has none.
std::int64_t most_tiles_of(const std::string& aspect) {
  constexpr std::string_view kMax = "anyres_max_";
  std::int64_t most = 0;
  if (aspect.starts_with(kMax)) std::from_chars(aspect.data() + kMax.size(), aspect.data() + aspect.size(), most);
  return most;
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
  if (!is_anyres(aspect_of(fields))) return std::nullopt;
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
  if (config.merge == PatchMerge::spatial_unpad) config.most_tiles = most_tiles_of(aspect_of(fields));
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
  const Grid grid = scaled(*this, window_of(*this, grid_of(*this, picture.size), picture.size));
  return features + grid.rows * (grid.columns + newline);
}

at::Tensor merge_tiles(const TileConfig& config, const std::vector<TiledPicture>& pictures, const at::Tensor& features,
                       const at::Tensor& newline) {
  std::vector<std::int64_t> rows;
  std::int64_t first = 0;
  const at::Tensor flat = features.flatten(0, 1);
  ScaledWindows windows{flat, flat.size(0)};
  for (const TiledPicture& picture : pictures) {
    append_positions(config, picture, first, windows, rows);
    first += picture.tiles;
  }
  if (pictures.empty()) {  // newline stays in the graph, with a gradient of zero
    if (!newline.defined()) return features;
    rows.resize(static_cast<std::size_t>(features.size(0) * config.features));
    std::iota(rows.begin(), rows.end(), 0);
  }
  const at::Tensor index = nn::upload(at::tensor(rows, at::kLong), features.device());
  const at::Tensor table = windows.tables.size() == 1 ? flat : at::cat(windows.tables);
  const at::Tensor taken = table.index_select(0, index.clamp_min(0));
  if (!newline.defined()) return taken;
  // Not a row of index_select: its gradient is then one sum, in one order on every device.
  const at::Tensor merged = at::where(index.eq(kNewline).unsqueeze(1), newline.to(taken.scalar_type()), taken);
  return pictures.empty() ? merged.view_as(features) : merged;
}

}  // namespace tessera::models
