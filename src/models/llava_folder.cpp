#include "tessera/models/llava_folder.hpp"

#include <algorithm>
#include <array>

#include "fastvit_names.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/processor.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/names.hpp"
#include "tower_folder.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTower = "vision_tower.vision_tower.";

/// The parts of MPT's base model: transformers' LLaVA calls any base model `language_model`.
bool is_part_of_mpt(std::string_view rest) {
  return rest.starts_with("wte.") || rest.starts_with("blocks.") || rest.starts_with("norm_f.");
}

/// Pictures in tiles are llava_next's, and come in them always; its pinpoints are [height, width].
void take_tiles(const nlohmann::json& settings, const nlohmann::json& config, const fs::path& folder,
                nlohmann::json& out) {
  const bool next = config.value("model_type", nlohmann::json()) == "llava_next";
  const auto refuse = [&](const char* key) {
    throw RequestError("--{} {}: {} is in transformers' form, whose llava_next alone has tiles: anyres, spatial_unpad",
                       key, settings[key].get<std::string>(), folder.string());
  };
  const auto aspect = settings.value("image_aspect_ratio", std::string(next ? "anyres" : "square"));
  if (next ? aspect != "anyres" : aspect.find("anyres") != std::string::npos) refuse("image_aspect_ratio");
  if (settings.contains("mm_patch_merge_type") && settings["mm_patch_merge_type"] != (next ? "spatial_unpad" : "flat"))
    refuse("mm_patch_merge_type");
  if (!settings.contains("image_grid_pinpoints")) return;
  if (!next) refuse("image_grid_pinpoints");
  const auto text = settings["image_grid_pinpoints"].get<std::string>();
  auto pairs = nlohmann::json::array();
  const auto tile = LlavaConfig::from_transformers(config).tower.image_size();
  for (const image::Size grid : image::pinpoints_from_text(text, tile, "--image_grid_pinpoints"))
    pairs.push_back({grid.height, grid.width});
  out["image_grid_pinpoints"] = pairs;
}

/// A FastViT takes pictures of any size: that of transformers' form is its processor's.
void fit_pictures(FastVitConfig& fastvit, const fs::path& folder) {
  if (const auto processor = image::find_processor(folder)) fastvit.image_size = processor->clip.crop.height;
}

/// Where the parts of config.json disagree whether the head is the embedding, releases of transformers do so too; the
/// file shows what its own did.
void fit_head(LanguageConfig& language, const nlohmann::json& config, const fs::path& folder) {
  const auto said = config.find("tie_word_embeddings");
  if (said == config.end() || !said->is_boolean() || *said == language.tied() || !io::find_weights(folder)) return;
  const io::SourcePtr files = io::open_weights(folder);
  const bool head = std::any_of(files->tensors().begin(), files->tensors().end(),
                                [](const io::TensorInfo& tensor) { return tensor.name.ends_with("lm_head.weight"); });
  std::visit([&](auto& family) { family.tie_word_embeddings = !head; }, language.family);
}

/// LLaVA's settings as transformers' config.json says them; the others are the original's alone.
nlohmann::json in_transformers_names(const nlohmann::json& settings, const nlohmann::json& config,
                                     const fs::path& folder) {
  nlohmann::json out = nlohmann::json::object();
  take_tiles(settings, config, folder, out);
  if (settings.contains("mm_vision_select_layer")) out["vision_feature_layer"] = settings["mm_vision_select_layer"];
  if (settings.contains("mm_vision_select_feature")) {
    out["vision_feature_select_strategy"] = settings["mm_vision_select_feature"] == "cls_patch" ? "full" : "default";
  }
  if (settings.value("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu") {
    throw RequestError("--mm_projector_type {}: the projector of {}, which is in transformers' form, is mlp2x_gelu",
                       settings["mm_projector_type"].get<std::string>(), folder.string());
  }
  return out;
}

}  // namespace

bool is_llava_config(const nlohmann::json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return false;
  constexpr std::array kTypes{"llava",      "llava_llama", "llava_mistral", "llava_qwen2",
                              "llava_qwen", "llava_mpt",   "llava_next",    "fast_vlm"};
  return std::find(kTypes.begin(), kTypes.end(), type->get<std::string>()) != kTypes.end();
}

bool is_transformers_llava(const nlohmann::json& config) {
  return config.contains("text_config") || config.contains("vision_config") ||
         config.value("model_type", nlohmann::json()) == "fast_vlm";
}

bool has_tower_inside(const nlohmann::json& config) {
  const auto found = config.find("unfreeze_mm_vision_tower");
  return found != config.end() && found->is_boolean() && found->get<bool>();
}

nlohmann::json trainer_defaults() {
  return {{"mm_vision_select_layer", -1}};
}

LlavaFolder read_llava_folder(const LlavaFolderRequest& request) {
  LlavaFolder out;
  out.folder = fs::weakly_canonical(request.folder);
  out.config = read_folder_config(out.folder, "--model");
  if (is_transformers_llava(out.config)) {
    if (!request.settings.empty()) out.config.update(in_transformers_names(request.settings, out.config, out.folder));
    out.llava = LlavaConfig::from_transformers(out.config);
    fit_tower(out.llava.tower, {}, out.folder);
    fit_head(out.llava.language, out.config, out.folder);
    if (auto& fastvit = out.llava.tower.fastvit) fit_pictures(*fastvit, out.folder);
    return out;
  }
  out.config.update(request.settings);
  for (const auto& [key, value] : request.defaults.items()) {
    if (!out.config.contains(key)) out.config[key] = value;
  }
  const auto name = request.vision_tower.empty() ? tower_name(out.config, out.folder) : request.vision_tower;
  const NamedTower tower = find_tower(name, out.folder, request.hub_dir);
  out.tower = tower.folder;
  out.llava = LlavaConfig::from_original(out.config, tower.config);
  fit_tower(out.llava.tower, out.tower, out.folder);
  out.llava.tower.require_width(out.config);
  return out;
}

std::optional<std::string> llava_layout_name(const std::string& name, const LlavaConfig& config) {
  return llava_layout_name(name, config.language.base(), config.tower.fastvit ? &*config.tower.fastvit : nullptr);
}

std::optional<std::string> llava_layout_name(const std::string& file_name, const std::string& base,
                                             const FastVitConfig* fastvit) {
  const auto plain = io::unwrapped_name(file_name);
  if (!plain || io::is_recomputed_buffer(*plain)) return std::nullopt;
  std::string name = *plain;
  // transformers before 4.52 kept the language model whole, with its own names, under `language_model`.
  constexpr std::string_view kWhole = "language_model.transformer.";
  if (name.starts_with(kWhole)) name.erase(0, std::string_view("language_model.").size());
  name = io::llava_name(name);
  constexpr std::string_view kModel = "model.";
  if (base != "model" && name.starts_with(kModel)) {
    const std::string_view rest = std::string_view(name).substr(kModel.size());
    if (is_part_of_mpt(rest) || rest.starts_with("mm_projector.") || rest.starts_with(kTower) ||
        rest.starts_with("image_newline") || rest.starts_with("visual_model.") ||
        rest.starts_with("text_hidden_fcs.")) {
      name = base + "." + std::string(rest);
    }
  }
  const std::string tower = base + "." + std::string(kTower);
  if (name.starts_with(tower)) {
    const auto own = tower_layout_name(name.substr(tower.size()), fastvit);
    return own ? std::optional(tower + *own) : std::nullopt;
  }
  return name;
}

std::optional<std::string> llava_hf_module_name(const std::string& name, const LlavaConfig& config) {
  const std::string tower = "model." + std::string(kTower);
  if (!config.tower.fastvit || !name.starts_with(tower)) return io::llava_module_name(name);
  return "model.vision_tower.timm_model." + timm_name(name.substr(tower.size()), *config.tower.fastvit);
}

std::optional<std::string> llava_hf_name(const std::string& name, const LlavaConfig& config) {
  return config.tower.fastvit ? llava_hf_module_name(name, config) : io::llava_hf_name(name);
}

io::SourcePtr open_llava_weights(const LlavaFolder& folder) {
  std::vector<io::SourcePtr> sources{io::open_weights(folder.folder)};
  if (!folder.tower.empty() && io::find_weights(folder.tower)) {
    const std::string prefix = folder.llava.language.base() + "." + std::string(kTower);
    const auto rename = [prefix, tower = folder.llava.tower](std::string_view name) -> std::optional<std::string> {
      const auto own = tower_layout_name(std::string(name), tower.fastvit ? &*tower.fastvit : nullptr);
      return own ? std::optional(prefix + *own) : std::nullopt;
    };
    // The model's own files may hold the tower as well, under other names: only what they lack is taken from here.
    std::vector<std::string> own;
    for (const io::TensorInfo& tensor : sources.front()->tensors()) {
      if (const auto name = llava_layout_name(tensor.name, folder.llava)) own.push_back(*name);
    }
    std::sort(own.begin(), own.end());
    sources.push_back(std::make_shared<io::RenamedSource>(
        io::open_weights(folder.tower), [rename, own](std::string_view name) -> std::optional<std::string> {
          auto renamed = rename(name);
          if (renamed && std::binary_search(own.begin(), own.end(), *renamed)) return std::nullopt;
          return renamed;
        }));
  }
  return std::make_shared<io::OverlaySource>(sources);
}

}  // namespace tessera::models
