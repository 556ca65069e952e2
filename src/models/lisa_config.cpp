#include "json_fields.hpp"
#include "tessera/models/lisa.hpp"

namespace tessera::models {

LisaConfig LisaConfig::from_json(const nlohmann::json& json, const nlohmann::json& tower) {
  const JsonFields fields(json, "config.json");
  LisaConfig config;
  config.language = LanguageConfig::from_json(json);
  if (is_fastvit_config(tower)) {
    config.tower.fastvit = FastVitConfig::from_json(tower);
  } else {
    config.tower.clip = ClipVisionConfig::from_json(tower);
  }
  if (fields.has("sam_config")) config.sam = SamConfig::from_json(json.at("sam_config"));
  if (fields.has("mm_vision_select_layer")) {
    const auto& layer = json.at("mm_vision_select_layer");
    if (!layer.is_number_integer())
      throw RequestError("config.json: 'mm_vision_select_layer' is {}, expected an integer", layer.dump());
    config.tower.select_layers = {layer.get<std::int64_t>()};
  }
  const std::string feature = fields.text("mm_vision_select_feature", "patch");
  if (feature != "patch")
    throw RequestError("config.json: mm_vision_select_feature '{}' is not LISA's 'patch'", feature);
  config.projector_type = fields.text("mm_projector_type", "linear");
  config.out_dim = fields.integer("out_dim", config.out_dim);
  config.use_im_start_end = fields.flag("mm_use_im_start_end", true);
  // A FastViT's width may be known only once its weights were looked at.
  if (!config.tower.fastvit) config.tower.require_width(json);
  if (config.out_dim != config.sam.prompt_embed_dim) {
    throw RequestError("config.json: out_dim {} is not SAM's prompt_embed_dim {}", config.out_dim,
                       config.sam.prompt_embed_dim);
  }
  return config;
}

}  // namespace tessera::models
