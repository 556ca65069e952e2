#include "tessera/models/lisa_folder.hpp"

#include <fstream>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::models {

namespace {

namespace fs = std::filesystem;

nlohmann::json read_config(const fs::path& folder, const char* flag) {
  if (!fs::is_directory(folder)) throw RequestError("{} {} is not a folder", flag, folder.string());
  const fs::path path = folder / "config.json";
  if (!fs::exists(path)) throw RequestError("{} has no config.json; {} wants a model folder", folder.string(), flag);
  const auto json = nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw RequestError("{} is no JSON object", path.string());
  return json;
}

// A model's name as configs give it: a folder, a folder beside the config, or a name under --hub_dir, with or without
// its organisation ("openai/clip-vit-large-patch14").
fs::path find_folder(const std::string& name, const fs::path& beside, const std::string& hub_dir) {
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
  std::string tried;
  for (const auto& place : places) {
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

// CLIP's config.json describes the vision part alone, or has it as vision_config.
nlohmann::json vision_part(const nlohmann::json& json) {
  return json.contains("vision_config") ? json.at("vision_config") : json;
}

// Training checkpoints of the reference carry PEFT's and DeepSpeed's wrappers in front of the model's own names.
std::string own_name(std::string name) {
  for (const char* prefix : {"module.", "base_model.model."}) {
    if (name.starts_with(prefix)) name.erase(0, std::string_view(prefix).size());
  }
  constexpr std::string_view kBase = ".base_layer.";
  if (const auto at = name.find(kBase); at != std::string::npos) name.replace(at, kBase.size(), ".");
  return name;
}

std::string clip_name(std::string name) {
  if (!name.starts_with("vision_model.") && !name.starts_with("text_model.")) name = "vision_model." + name;
  return "model.vision_tower.vision_tower." + name;
}

std::string sam_name(std::string name) {
  return "model.visual_model." + name;
}

}  // namespace

LisaFolder read_lisa_folder(const LisaFolderRequest& request) {
  LisaFolder out;
  out.folder = fs::weakly_canonical(request.folder);
  out.config = read_config(out.folder, "--version");
  const auto name = request.vision_tower.empty() ? tower_name(out.config, out.folder) : request.vision_tower;
  out.tower = find_folder(name, out.folder, request.hub_dir);
  out.sam = request.vision_pretrained;
  if (!out.sam.empty() && !fs::exists(out.sam))
    throw RequestError("--vision_pretrained {} does not exist", out.sam.string());
  out.lisa = LisaConfig::from_json(out.config, vision_part(read_config(out.tower, "--vision_tower")));
  out.finished = out.config.contains("train_mask_decoder");
  const auto tokenizer = load_lisa_tokenizer(out);
  out.lisa.seg_token_id = tokenizer.require_id("[SEG]");
  out.lisa.llama.vocab_size = std::max(out.lisa.llama.vocab_size, tokenizer.size());
  return out;
}

text::Tokenizer load_lisa_tokenizer(const LisaFolder& folder) {
  return text::load_tokenizer(folder.folder, text::lisa_rules(folder.lisa.use_im_start_end));
}

io::SourcePtr open_lisa_weights(const LisaFolder& folder) {
  std::vector<io::SourcePtr> sources;
  auto add = [&](const fs::path& path, std::string (*rename)(std::string)) {
    sources.push_back(std::make_shared<io::RenamedSource>(
        io::open_weights(path), [rename](std::string_view name) { return std::optional(rename(std::string(name))); }));
  };
  if (io::find_weights(folder.folder)) add(folder.folder, own_name);
  if (io::find_weights(folder.tower)) add(folder.tower, clip_name);
  if (!folder.sam.empty()) add(folder.sam, sam_name);
  return std::make_shared<io::OverlaySource>(sources);
}

bool may_be_new(const LisaFolder& folder, const nn::ParamState& param) {
  if (param.name.find(".lora_") != std::string::npos) return true;
  return !folder.finished && param.name.find("text_hidden_fcs.") != std::string::npos;
}

}  // namespace tessera::models
