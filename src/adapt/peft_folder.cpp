#include "tessera/adapt/peft_folder.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "tessera/adapt/peft_config.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kA = ".lora_A.default.weight";
constexpr std::string_view kB = ".lora_B.default.weight";
constexpr std::string_view kMagnitude = ".lora_magnitude_vector.default.weight";
/// Saved by PEFT with the adapter where their rows changed or an adapter sits on them, though modules_to_save does not
/// name them.
constexpr std::array<std::string_view, 2> kVocabulary = {"embed_tokens", "lm_head"};

/// "base_model.model." as PEFT puts it before every name, once or (LLaVA) with one "model." more than there should be.
std::string without_wrapper(std::string name) {
  for (const std::string_view prefix : {"base_model.model.", "base_model."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

/// Where a tensor of the adapter's file belongs.
struct Place {
  std::string name;    ///< ours
  std::string layer;   ///< ours, of an adapter's matrix; "" for a weight that was trained whole
  std::string theirs;  ///< PEFT's name of that layer
  bool saved = false;  ///< one of modules_to_save
};

std::optional<Place> place_of_matrix(const std::string& peft, const Rename& rename) {
  for (const std::string_view tail : {kA, kB, kMagnitude}) {
    if (!peft.ends_with(tail)) continue;
    const std::string theirs = peft.substr(0, peft.size() - tail.size());
    const auto weight = rename(theirs + std::string(kWeight));
    if (!weight || !weight->ends_with(kWeight)) return std::nullopt;
    const std::string layer = weight->substr(0, weight->size() - kWeight.size());
    return Place{layer + std::string(tail), layer, theirs, false};
  }
  return std::nullopt;
}

/// A weight of one of modules_to_save, or of the vocabulary.
std::optional<Place> place_of_whole(const std::string& file_name, const LoraConfig& config, const Rename& rename) {
  std::string name = without_wrapper(file_name);
  for (const std::string_view wrapper : {".modules_to_save.default.", ".modules_to_save.", ".base_layer."}) {
    const std::size_t at = name.find(wrapper);
    if (at != std::string::npos) name.replace(at, wrapper.size(), ".");
  }
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const std::string_view module = std::string_view(name).substr(0, dot);
    const auto ends = [&](std::string_view tail) { return module.ends_with(tail); };
    const bool saved = std::any_of(config.modules_to_save.begin(), config.modules_to_save.end(), ends);
    if (!saved && !std::any_of(kVocabulary.begin(), kVocabulary.end(), ends)) continue;
    const auto own = rename(name);
    return own ? std::optional(Place{*own, "", "", saved}) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Place> place_of(const std::string& file_name, const LoraConfig& config, const Rename& rename) {
  const std::string peft = param_name_of_peft(file_name);
  return peft.empty() ? place_of_whole(file_name, config, rename) : place_of_matrix(peft, rename);
}

void check_layer(const PeftFolder& adapter, const std::string& layer, const fs::path& folder) {
  const io::TensorInfo* a = adapter.weights->find(layer + std::string(kA));
  const io::TensorInfo* b = adapter.weights->find(layer + std::string(kB));
  if (a == nullptr || b == nullptr) {
    throw RequestError("{}: layer '{}' has no lora_{}", folder.string(), layer, a == nullptr ? "A" : "B");
  }
  const std::int64_t rank = adapter.config.layers.at(layer).rank;
  if (a->shape.size() != 2 || b->shape.size() != 2 || a->shape[0] != rank || b->shape[1] != rank) {
    throw RequestError("{}: layer '{}' has A {} and B {}, adapter_config.json says rank {}", folder.string(), layer,
                       io::shape_text(a->shape), io::shape_text(b->shape), rank);
  }
  const io::TensorInfo* magnitude = adapter.weights->find(layer + std::string(kMagnitude));
  if ((magnitude != nullptr) != adapter.config.dora) {
    throw RequestError("{}: layer '{}' has {} lora_magnitude_vector, adapter_config.json says use_dora is {}",
                       folder.string(), layer, magnitude == nullptr ? "no" : "a", adapter.config.dora);
  }
  if (magnitude != nullptr && magnitude->numel() != b->shape[0]) {
    throw RequestError("{}: layer '{}' has a lora_magnitude_vector {} for {} outputs", folder.string(), layer,
                       io::shape_text(magnitude->shape), b->shape[0]);
  }
}

io::SourcePtr open_replaced(const fs::path& folder, const Rename& rename) {
  for (const char* name : {"non_lora_trainables.safetensors", "non_lora_trainables.bin"}) {
    if (!fs::exists(folder / name)) continue;
    return std::make_shared<io::RenamedSource>(io::open_weights(folder / name), [&](std::string_view file) {
      return rename(without_wrapper(std::string(file)));
    });
  }
  return nullptr;
}

}  // namespace

PeftFolder open_peft_folder(const fs::path& folder, const Rename& rename) {
  PeftFolder adapter;
  LoraConfig& config = adapter.config;
  config = lora_config_from_json(read_json(folder / "adapter_config.json"));
  const io::SourcePtr files = io::open_weights(folder);
  std::vector<std::string> strange;
  std::map<std::string, std::string> theirs;  // PEFT's name of a layer, by ours
  bool whole = false;
  for (const io::TensorInfo& tensor : files->tensors()) {
    const auto place = place_of(tensor.name, config, rename);
    if (!place) {
      strange.push_back(tensor.name);
      continue;
    }
    adapter.file_names.emplace_back(place->name, tensor.name);
    if (place->layer.empty()) whole = true;
    if (place->saved) adapter.trained_whole.push_back(place->name);
    if (!place->layer.empty()) theirs.emplace(place->layer, place->theirs);
  }
  if (!strange.empty()) {
    throw RequestError("{}: '{}' ({} in all) is no LoRA matrix of a layer of this model", folder.string(),
                       strange.front(), strange.size());
  }
  if (theirs.empty()) throw RequestError("{}: the adapter has no tensors", folder.string());
  const auto part = [&](bool matrices) {
    return std::make_shared<io::RenamedSource>(files, [&](std::string_view name) -> std::optional<std::string> {
      const auto place = place_of(std::string(name), config, rename);
      return place && place->layer.empty() != matrices ? std::optional(place->name) : std::nullopt;
    });
  };
  adapter.weights = part(true);
  for (const auto& [layer, peft_name] : theirs) {
    config.targets.push_back(layer);
    config.layers.emplace(layer, config.layer(peft_name));
  }
  for (const std::string& layer : config.targets) check_layer(adapter, layer, folder);
  adapter.replaced = open_replaced(folder, rename);
  if (whole) {
    std::vector<io::SourcePtr> sources{part(false)};
    if (adapter.replaced) sources.push_back(adapter.replaced);
    adapter.replaced = std::make_shared<io::OverlaySource>(sources);
  }
  config.rank_pattern.clear();  // `layers` has what they say
  config.alpha_pattern.clear();
  config.modules_to_save.clear();
  return adapter;
}

}  // namespace tessera::adapt
