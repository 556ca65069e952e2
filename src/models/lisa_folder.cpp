#include "tessera/models/lisa_folder.hpp"

#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tower_folder.hpp"

namespace tessera::models {

namespace {

namespace fs = std::filesystem;

// The tower's and SAM's own files, under the names they have inside a LISA.
std::optional<std::string> tower_name_inside(const std::string& base, const FastVitConfig* fastvit,
                                             const std::string& name) {
  const auto own = tower_layout_name(name, fastvit);
  return own ? std::optional(base + ".vision_tower.vision_tower." + *own) : std::nullopt;
}

std::string sam_name(const std::string& base, const std::string& name) {
  return base + ".visual_model." + name;
}

// v0 keeps the language model in `lm`, SAM and the projection of [SEG] beside it.
std::optional<std::string> own_name(const std::string& base, const FastVitConfig* fastvit, std::string name) {
  if (name.starts_with("module.")) name.erase(0, std::string_view("module.").size());
  if (name.starts_with("lm.")) name.erase(0, std::string_view("lm.").size());
  if (name.starts_with("visual_model.") || name.starts_with("text_hidden_fcs.")) return base + "." + name;
  return llava_layout_name(name, base, fastvit);
}

}  // namespace

LisaFolder read_lisa_folder(const LisaFolderRequest& request) {
  LisaFolder out;
  out.folder = fs::weakly_canonical(request.folder);
  out.config = read_folder_config(out.folder, "--version");
  const auto name = request.vision_tower.empty() ? tower_name(out.config, out.folder) : request.vision_tower;
  const NamedTower tower = find_tower(name, out.folder, request.hub_dir);
  out.tower = tower.folder;
  out.sam = request.vision_pretrained;
  if (!out.sam.empty() && !fs::exists(out.sam))
    throw RequestError("--vision_pretrained {} does not exist", out.sam.string());
  out.lisa = LisaConfig::from_json(out.config, tower.config);
  fit_tower(out.lisa.tower, out.tower, out.folder);
  out.lisa.tower.require_width(out.config);
  out.finished = out.config.contains("train_mask_decoder");
  const auto tokenizer = load_lisa_tokenizer(out);
  out.lisa.seg_token_id = tokenizer.require_id("[SEG]");
  out.lisa.im_patch_token_id = tokenizer.id_of("<im_patch>").value_or(-1);
  out.lisa.language.set_vocab_size(std::max(out.lisa.language.vocab_size(), tokenizer.size()));
  return out;
}

text::Tokenizer load_lisa_tokenizer(const LisaFolder& folder) {
  return text::load_tokenizer(folder.folder, text::lisa_rules(folder.lisa.use_im_start_end));
}

io::SourcePtr open_lisa_weights(const LisaFolder& folder) {
  const std::string base = folder.lisa.language.base();
  const FastVitConfig* fastvit = folder.lisa.tower.fastvit ? &*folder.lisa.tower.fastvit : nullptr;
  std::vector<io::SourcePtr> sources;
  const auto add = [&](const fs::path& path, const io::RenamedSource::Rename& rename) {
    sources.push_back(std::make_shared<io::RenamedSource>(io::open_weights(path), rename));
  };
  if (io::find_weights(folder.folder))
    add(folder.folder, [&](std::string_view name) { return own_name(base, fastvit, std::string(name)); });
  // The parts of v0, with or without the part's name in front of the tensors'.
  for (const auto& [file, part] : io::kPartsOfLisaV0) {
    if (!fs::exists(folder.folder / file)) continue;
    add(folder.folder / file, [&, prefix = std::string(part)](std::string_view name) {
      return own_name(base, fastvit, (name.starts_with(prefix) ? "" : prefix) + std::string(name));
    });
  }
  if (!folder.tower.empty() && io::find_weights(folder.tower))
    add(folder.tower, [&](std::string_view name) { return tower_name_inside(base, fastvit, std::string(name)); });
  if (!folder.sam.empty())
    add(folder.sam, [&](std::string_view name) { return std::optional(sam_name(base, std::string(name))); });
  return std::make_shared<io::OverlaySource>(sources);
}

bool may_be_new(const LisaFolder& folder, const nn::ParamState& param) {
  if (param.name.find(".lora_") != std::string::npos) return true;
  return !folder.finished && param.name.find("text_hidden_fcs.") != std::string::npos;
}

}  // namespace tessera::models
