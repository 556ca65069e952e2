#pragma once
// Folders of vision towers, as configs name them.
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera::models {

/// config.json of a model folder. Throws RequestError naming the flag that gave the folder.
nlohmann::json read_folder_config(const std::filesystem::path& folder, const char* flag);

/// The folder of a tower by name: an absolute path, beside the config, in the working folder, or under hub_dir with or
/// without its organisation ("openai/clip-vit-large-patch14"). Throws RequestError naming the places.
std::filesystem::path find_tower(const std::string& name, const std::filesystem::path& beside,
                                 const std::string& hub_dir);

/// Settings of a tower that a name alone describes ("mobileclip_l_1024"), where no folder is called so; null for other
/// names.
nlohmann::json built_in_tower(const std::string& name, const std::filesystem::path& beside, const std::string& hub_dir);

/// mm_vision_tower, or vision_tower of LISA's early configs.
std::string tower_name(const nlohmann::json& config, const std::filesystem::path& folder);

/// CLIP's config.json describes the vision part alone, or has it as vision_config.
nlohmann::json vision_part(const nlohmann::json& json);

}  // namespace tessera::models
