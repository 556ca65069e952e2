#pragma once
/// LlavaFolder: what a model folder says of a LLaVA, in any of its public forms, before any weight is read.
///   original      config.json with the language model's keys and mm_…; the tower's weights in the model's or in the
///                 folder that mm_vision_tower names, which describes the tower in either case; or mm_vision_tower is
///                 a built-in tower's name (mobileclip_l_1024), whose weights are in the model's
///   transformers  config.json with text_config and vision_config (llava-hf, FastVLM), names of any generation
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tessera/io/sources.hpp"
#include "tessera/models/llava.hpp"

namespace tessera::models {

struct LlavaFolderRequest {
  std::filesystem::path folder;
  std::string vision_tower;  ///< overrides mm_vision_tower; empty: as the config says
  std::string hub_dir;       ///< where names that are no folders are looked up
  /// Keys of config.json with the values that count instead: those of a language model that becomes a LLaVA.
  nlohmann::json settings = nlohmann::json::object();
  /// Keys that count where neither says them; original form alone.
  nlohmann::json defaults = nlohmann::json::object();
};

/// What LLaVA's trainer takes where nothing is said: mm_vision_select_layer -1. Others take -2, as every published
/// model has it.
nlohmann::json trainer_defaults();

struct LlavaFolder {
  std::filesystem::path folder;
  std::filesystem::path tower;  ///< the tower's folder, absolute; empty when it has none of its own
  nlohmann::json config;        ///< config.json
  LlavaConfig llava;
};

/// Is this config.json a LLaVA's (and not a LISA's)?
bool is_llava_config(const nlohmann::json& config);

/// Is this the config.json of a LLaVA in transformers' form?
bool is_transformers_llava(const nlohmann::json& config);

/// Does this config.json say that the model's files hold its vision tower (unfreeze_mm_vision_tower)?
bool has_tower_inside(const nlohmann::json& config);

/// Throws RequestError naming the file or the flag that would mend it.
LlavaFolder read_llava_folder(const LlavaFolderRequest& request);

/// The layout's name for a tensor of LLaVA in any public naming, wrappers of PEFT and DeepSpeed removed; nothing for
/// buffers that are computed anew and for what LLaVA has not. base: LanguageConfig::base; fastvit: the tower, null: it
/// is CLIP.
std::optional<std::string> llava_layout_name(const std::string& name, const std::string& base,
                                             const FastVitConfig* fastvit = nullptr);
std::optional<std::string> llava_layout_name(const std::string& name, const LlavaConfig& config);

/// The name that the files of a model in transformers' form have for the layout's, and that its modules have in memory,
/// where adapters sit (io/names.hpp; FastVLM's files have those of the modules); nothing for what those models have
/// not.
std::optional<std::string> llava_hf_name(const std::string& name, const LlavaConfig& config);
std::optional<std::string> llava_hf_module_name(const std::string& name, const LlavaConfig& config);

/// The weights under the names of the files, the tower's folder's under "<base>.vision_tower.vision_tower."; what the
/// model's own files hold comes first. `llava_layout_name` turns them into the layout's.
io::SourcePtr open_llava_weights(const LlavaFolder& folder);

}  // namespace tessera::models
