#include "tessera/adapt/peft_folder.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "matrices.hpp"
#include "tessera/adapt/peft_config.hpp"
#include "tessera/adapt/tied_head.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kWrapped = ".base_layer.";  ///< a layer under its adapter, in PEFT since 0.6

/// "base_model.model." as PEFT puts it before every name, once or (LLaVA) with one "model." more than there should be.
std::string without_wrapper(std::string name) {
  for (const std::string_view prefix : {"base_model.model.", "base_model."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

/// Where a tensor of the adapter's file belongs.
struct Place {
  std::string name;    ///< ours; "" for a copy that loads nothing
  std::string layer;   ///< ours, of an adapter's matrix; "" for a weight that was trained whole
  std::string theirs;  ///< PEFT's name of that layer
  bool saved = false;  ///< one of modules_to_save, or, with `bias`, a bias
};

std::optional<Place> place_of_matrix(const std::string& peft, const Rename& rename) {
  const auto matrix = matrix_name(peft);
  const auto weight = rename(matrix->layer + std::string(kWeight));
  if (!weight || !weight->ends_with(kWeight)) return std::nullopt;
  const std::string layer = weight->substr(0, weight->size() - kWeight.size());
  return Place{layer + matrix->tail, layer, matrix->layer, false};
}

/// With `bias`, PEFT saves whatever has "bias" in its name: the base's own, a wrapped layer's, and of modules_to_save
/// two copies more than one.
std::optional<Place> place_of_bias(const std::string& file_name, const Rename& rename) {
  std::string name = without_wrapper(file_name);
  for (const std::string_view copy : {".original_module.", ".modules_to_save."}) {
    if (name.find(copy) != std::string::npos) return Place{};
  }
  if (const std::size_t at = name.find(kWrapped); at != std::string::npos) name.replace(at, kWrapped.size(), ".");
  const auto own = rename(name);
  return own ? std::optional(Place{*own, "", "", true}) : std::nullopt;
}

/// A weight of one of modules_to_save, or of the vocabulary.
std::optional<Place> place_of_whole(const std::string& file_name, const LoraConfig& config, const Rename& rename) {
  std::string name = without_wrapper(file_name);
  for (const std::string_view wrapper :
       {std::string_view(".modules_to_save.default."), std::string_view(".modules_to_save."), kWrapped}) {
    const std::size_t at = name.find(wrapper);
    if (at != std::string::npos) name.replace(at, wrapper.size(), ".");
  }
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const std::string_view module = std::string_view(name).substr(0, dot);
    const auto ends = [&](std::string_view tail) { return module.ends_with(tail); };
    const bool saved = std::any_of(config.modules_to_save.begin(), config.modules_to_save.end(), ends);
    // PEFT saves the vocabulary's weights along where their rows changed or an adapter sits on them.
    if (!saved && !is_vocabulary(std::string(module))) continue;
    const auto own = rename(name);
    return own ? std::optional(Place{*own, "", "", saved}) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Place> place_of(const std::string& file_name, const LoraConfig& config, const Rename& rename) {
  const std::string peft = param_name_of_peft(file_name);
  if (!peft.empty()) return place_of_matrix(peft, rename);
  if (config.base_bias != BaseBias::none && file_name.ends_with(".bias")) return place_of_bias(file_name, rename);
  return place_of_whole(file_name, config, rename);
}

/// Rank and alpha of a layer by the file's own name of it.
LoraConfig::Layer settings_of(const LoraConfig& config, const std::string& peft_name) {
  LoraConfig::Layer settings = config.layer(peft_name);
  if (!config.adalora) return settings;
  const auto kept = config.adalora->rank_pattern.find(peft_name);
  if (kept != config.adalora->rank_pattern.end())
    settings.rank = std::count(kept->second.begin(), kept->second.end(), true);
  return settings;
}

/// AdaLoRA's pattern under this program's names of the layers.
void rename_pattern(LoraConfig& config, const std::map<std::string, std::string>& theirs) {
  if (!config.adalora) return;
  std::map<std::string, std::vector<bool>> own;
  for (const auto& [layer, peft_name] : theirs) {
    const auto found = config.adalora->rank_pattern.find(peft_name);
    if (found != config.adalora->rank_pattern.end()) own.emplace(layer, found->second);
  }
  config.adalora->rank_pattern = std::move(own);
}

void check_layer(const PeftFolder& adapter, const std::string& layer, const fs::path& folder) {
  const LayerMatrices found = matrices_of(*adapter.weights, layer);
  const auto *a = found.a, *b = found.b, *e = found.e, *magnitude = found.magnitude;
  if (a == nullptr || b == nullptr || (e == nullptr && adapter.config.adalora)) {
    throw RequestError("{}: layer '{}' has no lora_{}", folder.string(), layer,
                       a == nullptr   ? "A"
                       : b == nullptr ? "B"
                                      : "E");
  }
  const std::int64_t rank = adapter.config.layers.at(layer).rank;
  const std::size_t dims = a->shape.size();
  const bool fits = (dims == 2 || (dims == 4 && !found.embedding)) && b->shape.size() == dims && a->shape[0] == rank &&
                    b->numel() == b->shape[0] * rank;
  if (!fits || b->shape[1] != rank) {
    throw RequestError("{}: layer '{}' has A {} and B {}, adapter_config.json says rank {}", folder.string(), layer,
                       io::shape_text(a->shape), io::shape_text(b->shape), rank);
  }
  if (e != nullptr && (!adapter.config.adalora || e->shape != std::vector<std::int64_t>{rank, 1})) {
    throw RequestError("{}: layer '{}' has E {}, adapter_config.json says {}", folder.string(), layer,
                       io::shape_text(e->shape), adapter.config.adalora ? "rank " + std::to_string(rank) : "LORA");
  }
  if ((magnitude != nullptr) != adapter.config.dora) {
    throw RequestError("{}: layer '{}' has {} lora_magnitude_vector, adapter_config.json says use_dora is {}",
                       folder.string(), layer, magnitude == nullptr ? "no" : "a", adapter.config.dora);
  }
  if ((found.bias != nullptr) != adapter.config.bias || (found.bias != nullptr && found.bias->numel() != b->shape[0])) {
    throw RequestError("{}: layer '{}' has {} as lora_B's bias, adapter_config.json says lora_bias is {}",
                       folder.string(), layer, found.bias == nullptr ? "nothing" : io::shape_text(found.bias->shape),
                       adapter.config.bias);
  }
  if (magnitude != nullptr && found.embedding)
    throw RequestError("{}: use_dora on an embedding ('{}') is not supported", folder.string(), layer);
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
    if (place->name.empty()) continue;
    adapter.file_names.emplace_back(place->name, tensor.name);
    if (place->layer.empty()) whole = true;
    if (place->saved) adapter.trained_whole.push_back(place->name);
    if (!place->layer.empty()) theirs.emplace(place->layer, place->theirs);
  }
  if (!strange.empty()) {
    throw RequestError("{}: '{}' ({} in all) is no adapter's matrix of a layer of this model", folder.string(),
                       strange.front(), strange.size());
  }
  if (theirs.empty()) throw RequestError("{}: the adapter has no tensors", folder.string());
  const auto part = [&](bool matrices) {
    return std::make_shared<io::RenamedSource>(files, [&](std::string_view name) -> std::optional<std::string> {
      const auto place = place_of(std::string(name), config, rename);
      if (!place || place->name.empty() || place->layer.empty() == matrices) return std::nullopt;
      const auto settled = config.layers.find(place->layer);
      if (settled != config.layers.end() && settled->second.rank == 0) return std::nullopt;
      return place->name;
    });
  };
  adapter.weights = part(true);
  for (const auto& [layer, peft_name] : theirs) {
    config.targets.push_back(layer);
    config.layers.emplace(layer, settings_of(config, peft_name));
  }
  rename_pattern(config, theirs);
  for (const std::string& layer : config.targets) check_layer(adapter, layer, folder);
  adapter.weights = part(true);  // without the empty matrices of layers that AdaLoRA left no triplet
  adapter.replaced = open_replaced(folder, rename);
  if (whole) {
    std::vector<io::SourcePtr> sources{part(false)};
    if (adapter.replaced) sources.push_back(adapter.replaced);
    adapter.replaced = std::make_shared<io::OverlaySource>(sources);
  }
  config.rank_pattern.clear();  // `layers` has what they say
  config.alpha_pattern.clear();
  adapter.modules_to_save = std::exchange(config.modules_to_save, {});
  return adapter;
}

Lora attach_lora(nn::ModelLayout& layout, const PeftFolder& adapter, const LoraConfig& config, const fs::path& folder) {
  std::set<std::string> there;
  for (const auto& layer : layout.layers()) there.insert(layer->name);
  for (const std::string& layer : config.targets) {
    if (there.contains(layer)) continue;
    throw RequestError("{}: an adapter for another base: it is for a layer '{}', which this model does not have",
                       folder.string(), layer);
  }
  Lora lora = attach_lora(layout, config);
  const auto check = [&](const nn::Param& param) {
    const io::TensorInfo* found = param == nullptr ? nullptr : adapter.weights->find(param->name);
    if (found == nullptr || found->shape == param->shape) return;
    throw RequestError("{}: an adapter for another base: '{}' is {}, this model takes {}", folder.string(), found->name,
                       io::shape_text(found->shape), io::shape_text(param->shape));
  };
  for (const LoraLayer& layer : lora.layers) {
    for (const nn::Param& param : {layer.a, layer.b, layer.magnitude, layer.bias}) check(param);
  }
  return lora;
}

}  // namespace tessera::adapt
