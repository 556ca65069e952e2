#include "tessera/io/names.hpp"

#include <array>

namespace tessera::io {
namespace {

struct Prefix {
  std::string_view from;
  std::string_view to;
};

/// To ours; the first that fits. Ours stand first where another's prefix would fit them too.
constexpr std::array kToOurs{Prefix{"model.vision_tower.vision_tower.", "model.vision_tower.vision_tower."},
                             Prefix{"language_model.model.", "model."},
                             Prefix{"language_model.lm_head.", "lm_head."},
                             Prefix{"model.language_model.", "model."},
                             Prefix{"multi_modal_projector.linear_1.", "model.mm_projector.0."},
                             Prefix{"multi_modal_projector.linear_2.", "model.mm_projector.2."},
                             Prefix{"model.multi_modal_projector.linear_1.", "model.mm_projector.0."},
                             Prefix{"model.multi_modal_projector.linear_2.", "model.mm_projector.2."},
                             Prefix{"vision_tower.", "model.vision_tower.vision_tower."},
                             Prefix{"model.vision_tower.", "model.vision_tower.vision_tower."},
                             Prefix{"image_newline", "model.image_newline"}};

constexpr std::array kToFiles{Prefix{"model.vision_tower.vision_tower.", "vision_tower."},
                              Prefix{"model.mm_projector.0.", "multi_modal_projector.linear_1."},
                              Prefix{"model.mm_projector.2.", "multi_modal_projector.linear_2."},
                              Prefix{"model.image_newline", "image_newline"},
                              Prefix{"model.layers.", "language_model.model.layers."},
                              Prefix{"model.embed_tokens.", "language_model.model.embed_tokens."},
                              Prefix{"model.norm.", "language_model.model.norm."},
                              Prefix{"lm_head.", "language_model.lm_head."}};

template <std::size_t N>
std::optional<std::string> replaced(std::string_view name, const std::array<Prefix, N>& table) {
  for (const auto& [from, to] : table) {
    if (name.starts_with(from)) return std::string(to) + std::string(name.substr(from.size()));
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> unwrapped_name(std::string_view name) {
  if (name.find(".original_module.") != name.npos) return std::nullopt;
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : {"module.", "base_model.model."}) {
      if (!name.starts_with(wrapper)) continue;
      name.remove_prefix(wrapper.size());
      again = true;
    }
  }
  std::string out(name);
  for (const std::string_view inside : {".base_layer.", ".modules_to_save.default."}) {
    if (const auto at = out.find(inside); at != out.npos) out.replace(at, inside.size(), ".");
  }
  return out;
}

std::string llava_name(std::string_view name) {
  constexpr std::string_view kTower = "model.vision_tower.vision_tower.";
  std::string ours = replaced(name, kToOurs).value_or(std::string(name));
  if (!ours.starts_with(kTower)) return ours;
  const std::string_view inside = std::string_view(ours).substr(kTower.size());
  for (const std::string_view part : {"embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."}) {
    if (inside.starts_with(part)) return ours.insert(kTower.size(), "vision_model.");
  }
  return ours;
}

std::optional<std::string> projector_name(std::string_view name) {
  constexpr std::string_view kProjector = "mm_projector.";
  const auto at = name.find(kProjector);
  if (at == name.npos) return std::nullopt;
  return "model." + std::string(name.substr(at));
}

std::optional<std::string> llava_hf_name(std::string_view name) {
  return replaced(name, kToFiles);
}

std::optional<std::string> llava_module_name(std::string_view name) {
  constexpr std::string_view kWhole = "language_model.model.";
  constexpr std::string_view kLanguage = "language_model.";
  auto file = llava_hf_name(name);
  if (!file) return std::nullopt;
  if (file->starts_with(kWhole)) return "model." + std::string(kLanguage) + file->substr(kWhole.size());
  if (file->starts_with(kLanguage)) return file->substr(kLanguage.size());
  return "model." + *file;
}

bool is_recomputed_buffer(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".embeddings.position_ids");
}

}  // namespace tessera::io
