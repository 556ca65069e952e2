#pragma once
/// Pictures in tiles (LLaVA 1.6, "anyres"): the tower sees a picture squeezed to a square, then piece by piece on the
/// grid that fits it best; what it makes of them becomes one run of positions in the text.
///
/// Shapes: N tiles of all pictures together, P features of a tile (p x p where they lie in space), D width, F positions
/// of all pictures together.
/// Source: haotian-liu/LLaVA llava/model/llava_arch.py (prepare_inputs_labels_for_multimodal, unpad_image);
/// transformers models/llava_next (get_image_features, pack_image_features). anyres_max_N: LLaVA-VL/LLaVA-NeXT
/// llava/model/llava_arch.py; transformers models/llava_onevision (pack_image_features). image/preprocess.hpp makes the
/// tiles.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "tessera/image/preprocess.hpp"
#include "tessera/models/vision_tower.hpp"

namespace tessera::models {

/// mm_patch_merge_type.
enum class PatchMerge : std::uint8_t {
  flat,           ///< tile after tile
  spatial,        ///< the squeezed picture, then the grid of tiles, row by row
  spatial_unpad,  ///< the same without the grid's padding, each row ended by image_newline
};
/// Throws RequestError for another name.
PatchMerge patch_merge_from_name(std::string_view name);

/// One picture of a batch.
struct TiledPicture {
  std::int64_t tiles = 1;  ///< the squeezed picture is the first
  image::Size size;        ///< as it was before; of no account where there is one tile
};

/// How a model's pictures come in tiles.
struct TileConfig {
  PatchMerge merge = PatchMerge::flat;
  image::GridPinpoints pinpoints;
  std::int64_t tile = 336;      ///< side of a tile in pixels
  std::int64_t features = 576;  ///< P
  /// transformers' way with what is left of a padded side: rounded to seven decimals before it is cut to an integer.
  bool rounds = false;
  /// anyres_max_N with spatial_unpad: a grid without its padding that has more than 1.21 N P features is scaled down,
  /// bilinearly, to about N P. 0: none is.
  std::int64_t most_tiles = 0;

  /// From the original's config.json, whose pinpoints are [width, height]; nothing where its image_aspect_ratio is not
  /// anyres. Throws RequestError: no pinpoints, tiles that do not fill them, a tower whose features do not lie in
  /// space.
  static std::optional<TileConfig> from_original(const nlohmann::json& json, const VisionTowerConfig& tower);
  /// From llava_next's, whose pinpoints are [height, width]. Throws RequestError likewise.
  static TileConfig from_transformers(const nlohmann::json& json, const VisionTowerConfig& tower);

  TiledPicture picture(image::Size size) const;
  /// Throws RequestError where the picture's tiles are not those that its size asks for.
  std::int64_t positions(const TiledPicture& picture) const;
};

/// features [N,P,D] of the pictures' tiles, in order, to [F,D]. newline [D]: what ends a row; undefined where the merge
/// is not spatial_unpad. Without pictures the features stay as they are.
at::Tensor merge_tiles(const TileConfig& config, const std::vector<TiledPicture>& pictures, const at::Tensor& features,
                       const at::Tensor& newline);

}  // namespace tessera::models
