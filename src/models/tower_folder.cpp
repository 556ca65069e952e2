#include "tower_folder.hpp"

#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::models {

namespace fs = std::filesystem;

nlohmann::json read_folder_config(const fs::path& folder, const char* flag) {
  if (!fs::is_directory(folder)) throw RequestError("{} {} is not a folder", flag, folder.string());
  const fs::path path = folder / "config.json";
  if (!fs::exists(path)) throw RequestError("{} has no config.json; {} wants a model folder", folder.string(), flag);
  const JsonView json = read_json(path);
  if (!json.is_object()) throw RequestError("{} is no JSON object", path.string());
  return json.raw();
}

namespace {

std::vector<fs::path> places_of(const std::string& name, const fs::path& beside, const std::string& hub_dir) {
  std::vector<fs::path> places;
  if (fs::path(name).is_absolute()) {
    places = {name};
  } else {
    places = {beside / name, name};
  }
  if (!hub_dir.empty()) {
    places.push_back(fs::path(hub_dir) / name);
    places.push_back(fs::path(hub_dir) / fs::path(name).filename());
  }
  return places;
}

}  // namespace

NamedTower find_tower(const std::string& name, const fs::path& beside, const std::string& hub_dir) {
  std::string tried;
  for (const auto& place : places_of(name, beside, hub_dir)) {
    if (fs::exists(place / "config.json")) {
      const auto folder = fs::weakly_canonical(place);
      return {folder, vision_part(read_folder_config(folder, "--vision_tower"))};
    }
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  if (const auto tower = FastVitConfig::from_name(name))
    return {{}, {{"model_name", "fastvithd"}, {"image_size", tower->image_size}}};
  throw RequestError("the vision tower '{}' was not found (looked at {}); pass --vision_tower FOLDER or --hub_dir",
                     name, tried);
}

std::string tower_name(const nlohmann::json& config, const fs::path& folder) {
  for (const char* key : {"mm_vision_tower", "vision_tower"}) {
    if (config.contains(key) && config.at(key).is_string()) return config.at(key).get<std::string>();
  }
  throw RequestError("{}: no mm_vision_tower; pass --vision_tower FOLDER", (folder / "config.json").string());
}

void fit_tower(VisionTowerConfig& tower, const fs::path& tower_folder, const fs::path& model_folder) {
  if (!tower.fastvit) return;
  if (!tower_folder.empty() && io::find_weights(tower_folder))
    tower.fastvit->fit_to_weights(*io::open_weights(tower_folder));
  if (io::find_weights(model_folder)) tower.fastvit->fit_to_weights(*io::open_weights(model_folder), "vision_tower.");
}

std::optional<std::string> tower_layout_name(const std::string& name, const FastVitConfig* fastvit) {
  if (fastvit != nullptr) return fastvit_name(name, *fastvit);
  // Parts of a whole CLIP beside its vision model.
  for (const std::string_view other : {"text_model.", "text_projection", "visual_projection", "logit_scale"}) {
    if (name.starts_with(other)) return std::nullopt;
  }
  // transformers 5 saves the tower without its own prefix.
  return name.starts_with("vision_model.") ? name : "vision_model." + name;
}

nlohmann::json vision_part(const nlohmann::json& json) {
  return json.contains("vision_config") ? json.at("vision_config") : json;
}

}  // namespace tessera::models
