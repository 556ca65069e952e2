#pragma once
// Folders of vision towers, as configs name them.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tessera/models/vision_tower.hpp"

namespace tessera::models {

/// config.json of a model folder. Throws RequestError naming the flag that gave the folder.
nlohmann::json read_folder_config(const std::filesystem::path& folder, const char* flag);

struct NamedTower {
  std::filesystem::path folder;  ///< absolute; empty: a name alone describes it ("mobileclip_l_1024")
  nlohmann::json config;         ///< its settings
};
/// The tower of this name: a folder (an absolute path, beside the config, in the working folder, or under hub_dir with
/// or without its organisation, "openai/clip-vit-large-patch14"), or where no folder is called so a built-in one.
/// Throws RequestError naming the places.
NamedTower find_tower(const std::string& name, const std::filesystem::path& beside, const std::string& hub_dir);

/// A FastViT's form, and its sizes where nothing tells them, are those of the weights: the model's, or its own
/// folder's.
void fit_tower(VisionTowerConfig& tower, const std::filesystem::path& tower_folder,
               const std::filesystem::path& model_folder);

/// Our name, below "<base>.vision_tower.vision_tower.", of a tensor in a tower's own files; nothing for what the tower
/// has not: the text half of a CLIP, counters of batch norms. fastvit: null: it is CLIP.
std::optional<std::string> tower_layout_name(const std::string& name, const FastVitConfig* fastvit);

/// mm_vision_tower, or vision_tower of LISA's early configs.
std::string tower_name(const nlohmann::json& config, const std::filesystem::path& folder);

/// CLIP's config.json describes the vision part alone, or has it as vision_config.
nlohmann::json vision_part(const nlohmann::json& json);

}  // namespace tessera::models
