// Public namings of FastViTHD's tensors; ours is Apple's.
#include <array>
#include <charconv>

#include "fastvit_names.hpp"

namespace tessera::models {
namespace {

struct Spelling {
  std::string_view from, to;
};

/// timm's words, and Apple's for the same.
constexpr std::array kWords{Spelling{"conv_kxk.", "rbr_conv."},
                            Spelling{"conv_scale.", "rbr_scale."},
                            Spelling{"identity.", "rbr_skip."},
                            Spelling{"large_conv.", "lkb_origin."},
                            Spelling{".mlp.", ".convffn."},
                            Spelling{"se.fc1.", "se.reduce."},
                            Spelling{"se.fc2.", "se.expand."},
                            Spelling{"pos_enc.", "pe."},
                            Spelling{"proj.0.reparam_conv.", "proj.0.lkb_reparam."}};

/// What stands before the network's own names, in the models that contain one.
constexpr std::array kWrappers{"module.",       "image_encoder.", "visual.", "trunk.",
                               "vision_tower.", "timm_model.",    "model."};

std::string_view without_wrappers(std::string_view name) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : kWrappers) {
      if (!name.starts_with(wrapper)) continue;
      name.remove_prefix(wrapper.size());
      again = true;
    }
  }
  return name;
}

void replace_start(std::string& name, std::string_view from, std::string_view to) {
  if (name.starts_with(from)) name.replace(0, from.size(), to);
}

/// stages.S.{downsample,pos_emb,blocks}.… is network.N.…: Apple numbers what is there, one after another.
void number_flat(std::string& name, const FastVitConfig& config) {
  constexpr std::string_view kStages = "stages.";
  if (!name.starts_with(kStages)) return;
  std::size_t stage = 0;
  const auto [stop, error] = std::from_chars(name.data() + kStages.size(), name.data() + name.size(), stage);
  if (error != std::errc() || stage >= config.stages.size()) return;
  const FastVitStage& s = config.stages[stage];
  const std::string rest = name.substr(static_cast<std::size_t>(stop - name.data()));
  for (const auto& [part, index] : {std::pair{".downsample.", s.down_index}, std::pair{".pos_emb.", s.position_index},
                                    std::pair{".blocks.", s.block_index}}) {
    if (!rest.starts_with(part)) continue;
    name = "network." + std::to_string(index) + "." + rest.substr(std::string_view(part).size());
    return;
  }
}

/// network.N.… is stages.S.{downsample,pos_emb,blocks}.…
void number_by_stage(std::string& name, const FastVitConfig& config) {
  constexpr std::string_view kNetwork = "network.";
  if (!name.starts_with(kNetwork)) return;
  std::int64_t index = -1;
  const auto [stop, error] = std::from_chars(name.data() + kNetwork.size(), name.data() + name.size(), index);
  const std::string rest = name.substr(static_cast<std::size_t>(stop - name.data()));
  for (std::size_t i = 0; i < config.stages.size(); ++i) {
    const FastVitStage& s = config.stages[i];
    const char* const part = index == s.down_index       ? ".downsample"
                             : index == s.position_index ? ".pos_emb"
                             : index == s.block_index    ? ".blocks"
                                                         : nullptr;
    if (index < 0 || part == nullptr) continue;
    name = "stages." + std::to_string(i) + part + rest;
    return;
  }
}

}  // namespace

std::string timm_name(const std::string& own, const FastVitConfig& config) {
  std::string name = own + ".";  // a layer's ends like a part of a tensor's
  replace_start(name, "model.", "");
  replace_start(name, "patch_embed.", "stem.");
  replace_start(name, "conv_exp.", "final_conv.");
  number_by_stage(name, config);
  for (const Spelling& word : kWords) {
    if (const auto at = name.find(word.to); at != name.npos) name.replace(at, word.to.size(), word.from);
  }
  name.pop_back();
  if (name.substr(name.rfind('.') + 1).starts_with("layer_scale")) name += ".gamma";
  return name;
}

std::string fastvit_own_part(const std::string& name) {
  return std::string(without_wrappers(name));
}

std::optional<std::string> fastvit_name(const std::string& given, const FastVitConfig& config) {
  std::string name = fastvit_own_part(given);
  if (name.ends_with(".num_batches_tracked")) return std::nullopt;
  for (const std::string_view other : {"head.fc.", "text_encoder.", "text.", "logit_scale", "classifier."}) {
    if (name.starts_with(other)) return std::nullopt;
  }
  replace_start(name, "stem.", "patch_embed.");
  replace_start(name, "final_conv.", "conv_exp.");
  number_flat(name, config);
  for (const Spelling& word : kWords) {
    if (const auto at = name.find(word.from); at != name.npos) name.replace(at, word.from.size(), word.to);
  }
  constexpr std::string_view kGamma = ".gamma";
  if (name.ends_with(kGamma)) name.erase(name.size() - kGamma.size());
  return "model." + name;
}

}  // namespace tessera::models
