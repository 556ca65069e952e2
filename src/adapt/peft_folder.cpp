#include "tessera/adapt/peft_folder.hpp"

#include <algorithm>
#include <map>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kA = ".lora_A.default.weight";
constexpr std::string_view kB = ".lora_B.default.weight";

/// "base_model.model." as PEFT puts it before every name, once or (LLaVA) with one "model." more than there should be.
std::string without_wrapper(std::string name) {
  for (const std::string_view prefix : {"base_model.model.", "base_model."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

/// Our name of an adapter's tensor, for our name of its layer; nothing when it is no LoRA matrix of the model.
std::optional<std::string> own_name(const std::string& file_name, const Rename& rename) {
  const std::string peft = param_name_of_peft(file_name);
  for (const std::string_view tail : {kA, kB}) {
    if (!peft.ends_with(tail)) continue;
    const std::string layer = peft.substr(0, peft.size() - tail.size());
    const auto weight = rename(layer + std::string(kWeight));
    if (!weight || !weight->ends_with(kWeight)) return std::nullopt;
    return weight->substr(0, weight->size() - kWeight.size()) + std::string(tail);
  }
  return std::nullopt;
}

void check_pair(const PeftFolder& adapter, const std::string& layer, const fs::path& folder) {
  const io::TensorInfo* a = adapter.weights->find(layer + std::string(kA));
  const io::TensorInfo* b = adapter.weights->find(layer + std::string(kB));
  if (a == nullptr || b == nullptr) {
    throw RequestError("{}: layer '{}' has no lora_{}", folder.string(), layer, a == nullptr ? "A" : "B");
  }
  const std::int64_t rank = adapter.config.rank;
  if (a->shape.size() != 2 || b->shape.size() != 2 || a->shape[0] != rank || b->shape[1] != rank) {
    throw RequestError("{}: layer '{}' has A {} and B {}, adapter_config.json says rank {}", folder.string(), layer,
                       io::shape_text(a->shape), io::shape_text(b->shape), rank);
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
  adapter.config = lora_config_from_json(read_json(folder / "adapter_config.json"));
  const io::SourcePtr files = io::open_weights(folder);
  std::vector<std::string> strange;
  for (const io::TensorInfo& tensor : files->tensors()) {
    if (const auto own = own_name(tensor.name, rename)) {
      adapter.file_names.emplace_back(*own, tensor.name);
    } else {
      strange.push_back(tensor.name);
    }
  }
  if (!strange.empty()) {
    throw RequestError("{}: '{}' ({} in all) is no LoRA matrix of a layer of this model", folder.string(),
                       strange.front(), strange.size());
  }
  if (adapter.file_names.empty()) throw RequestError("{}: the adapter has no tensors", folder.string());
  adapter.weights = std::make_shared<io::RenamedSource>(
      files, [&](std::string_view name) { return own_name(std::string(name), rename); });
  for (const io::TensorInfo& tensor : adapter.weights->tensors()) {
    const std::string layer = tensor.name.substr(0, tensor.name.size() - kA.size());
    if (adapter.config.targets.empty() || adapter.config.targets.back() != layer)
      adapter.config.targets.push_back(layer);
  }
  for (const std::string& layer : adapter.config.targets) check_pair(adapter, layer, folder);
  adapter.replaced = open_replaced(folder, rename);
  return adapter;
}

}  // namespace tessera::adapt
