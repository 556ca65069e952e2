// What tells one frozen tower, and the way of an image to it, from another.
#include <fmt/ranges.h>

#include "tessera/core/error.hpp"
#include "tessera/data/frozen_towers.hpp"
#include "tessera/shard/source_digest.hpp"

namespace tessera::data {
namespace {

/// What stands in the names of a tower's weights, in front of its own names for them.
std::string_view part_of(std::string_view tower) {
  return tower == "sam" ? ".visual_model.image_encoder." : ".vision_tower.";
}

std::string aspect_name(image::Aspect aspect) {
  return aspect == image::Aspect::pad ? "pad" : aspect == image::Aspect::anyres ? "anyres" : "square";
}

std::string describe(const image::ClipImageConfig& c, image::Aspect aspect) {
  auto text = fmt::format("{} x {} pixels, aspect {}", c.crop.height, c.crop.width, aspect_name(aspect));
  if (c.resize) {
    text += c.shortest_edge > 0 ? fmt::format(", shortest edge {}", c.shortest_edge)
                                : fmt::format(", resized to {} x {}", c.fixed.height, c.fixed.width);
    text += fmt::format(" by filter {}", static_cast<int>(c.resample));
  }
  if (!c.center_crop) text += ", not cropped";
  if (c.rescale) text += fmt::format(", times {}", c.rescale_factor);
  if (c.normalize) text += fmt::format(", mean {}, std {}", fmt::join(c.mean, " "), fmt::join(c.std, " "));
  return text;
}

}  // namespace

TowerFeatures describe_clip(const models::VisionTowerConfig& tower, const InputSpec& spec) {
  if (tower.fastvit) throw RequestError("features are stored of CLIP and SAM towers, not of a FastViT");
  std::vector<std::int64_t> layers;
  for (const auto layer : tower.select_layers)
    layers.push_back(models::ClipVision::layers_for(layer, tower.clip.layers));
  return {"clip",
          {tower.tokens(), tower.width()},
          fmt::format("{}; hidden state {} of {}{}", describe(spec.clip, spec.aspect), fmt::join(layers, " "),
                      tower.clip.layers, tower.class_token ? ", class token first" : ""),
          0};
}

TowerFeatures describe_sam(const models::SamConfig& sam) {
  return {"sam",
          {sam.prompt_embed_dim, sam.grid(), sam.grid()},
          fmt::format("longest side {}, padded; image embedding", sam.image_size),
          0};
}

std::vector<nn::UnitId> tower_units(const nn::ModelLayout& layout, std::string_view tower) {
  const auto part = part_of(tower);
  std::vector<nn::UnitId> found;
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    const auto& unit = layout.units()[u];
    const bool belongs = !unit.params.empty() && unit.params.front()->name.find(part) != std::string::npos;
    if (belongs && !unit.idle && !unit.fused) found.push_back(static_cast<nn::UnitId>(u));
  }
  return found;
}

std::uint64_t tower_digest(const nn::ModelLayout& layout, std::string_view tower, const std::vector<nn::UnitId>& units,
                           const io::TensorSource& source, comm::Communicator& comm) {
  const auto part = part_of(tower);
  std::vector<nn::Param> params;
  for (const auto unit : units) {
    const auto& own = layout.unit(unit).params;
    params.insert(params.end(), own.begin(), own.end());
  }
  return shard::source_digest(
      source, params, [part](const nn::ParamState& p) { return p.name.substr(p.name.find(part) + part.size()); }, comm);
}

}  // namespace tessera::data
