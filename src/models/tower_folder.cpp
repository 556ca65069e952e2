#include "tower_folder.hpp"

#include <nlohmann/json.hpp>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/models/fastvit.hpp"

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

nlohmann::json built_in_tower(const std::string& name, const fs::path& beside, const std::string& hub_dir) {
  for (const auto& place : places_of(name, beside, hub_dir)) {
    if (fs::exists(place / "config.json")) return nullptr;
  }
  const auto tower = FastVitConfig::from_name(name);
  if (!tower) return nullptr;
  return {{"model_name", "fastvithd"}, {"image_size", tower->image_size}};
}

fs::path find_tower(const std::string& name, const fs::path& beside, const std::string& hub_dir) {
  std::string tried;
  for (const auto& place : places_of(name, beside, hub_dir)) {
    if (fs::exists(place / "config.json")) return fs::weakly_canonical(place);
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  throw RequestError("the vision tower '{}' was not found (looked at {}); pass --vision_tower FOLDER or --hub_dir",
                     name, tried);
}

std::string tower_name(const nlohmann::json& config, const fs::path& folder) {
  for (const char* key : {"mm_vision_tower", "vision_tower"}) {
    if (config.contains(key) && config.at(key).is_string()) return config.at(key).get<std::string>();
  }
  throw RequestError("{}: no mm_vision_tower; pass --vision_tower FOLDER", (folder / "config.json").string());
}

nlohmann::json vision_part(const nlohmann::json& json) {
  return json.contains("vision_config") ? json.at("vision_config") : json;
}

}  // namespace tessera::models
