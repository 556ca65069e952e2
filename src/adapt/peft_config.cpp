#include "tessera/adapt/peft_config.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::adapt {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.";
constexpr std::string_view kAdapterName = ".default";
constexpr std::string_view kMagnitude = ".lora_magnitude_vector";
constexpr std::string_view kTriplet = ".lora_E";
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";
constexpr std::string_view kBiased = ".lora_B";

/// Options of PEFT that change what is computed and have no counterpart here.
constexpr std::array<const char*, 7> kUnsupported = {
    "fan_in_fan_out",          "layer_replication", "target_parameters",      "use_qalora",
    "alora_invocation_tokens", "arrow_config",      "trainable_token_indices"};

bool drop_tail(std::string& text, std::string_view tail) {
  if (!text.ends_with(tail)) return false;
  text.erase(text.size() - tail.size());
  return true;
}

template <class Value>
std::vector<std::pair<std::string, Value>> sorted(std::vector<std::pair<std::string, Value>> patterns) {
  std::sort(patterns.begin(), patterns.end(), [](const auto& l, const auto& r) { return l.first < r.first; });
  return patterns;
}

/// As given, or, where sorting the keys would change what a layer gets, by the layers' names.
struct PatternsJson {
  nlohmann::json ranks = nlohmann::json::object();
  nlohmann::json alphas = nlohmann::json::object();
};

PatternsJson patterns_json(const Lora& lora) {
  LoraConfig as_read = lora.config;
  as_read.layers.clear();
  as_read.rank_pattern = sorted(as_read.rank_pattern);
  as_read.alpha_pattern = sorted(as_read.alpha_pattern);
  const bool alike = std::all_of(lora.layers.begin(), lora.layers.end(), [&](const LoraLayer& layer) {
    const auto mine = lora.config.layer(layer.target->name), read = as_read.layer(layer.target->name);
    return mine.rank == read.rank && mine.alpha == read.alpha;
  });
  PatternsJson out;
  if (alike) {
    for (const auto& [key, rank] : as_read.rank_pattern) out.ranks[key] = rank;
    for (const auto& [key, alpha] : as_read.alpha_pattern) out.alphas[key] = alpha;
    return out;
  }
  for (const LoraLayer& layer : lora.layers) {
    const auto mine = lora.config.layer(layer.target->name);
    if (mine.rank != lora.config.rank) out.ranks[layer.target->name] = mine.rank;
    if (mine.alpha != lora.config.alpha) out.alphas[layer.target->name] = mine.alpha;
  }
  return out;
}

nlohmann::json list_or_null(const std::vector<std::string>& list) {
  return list.empty() ? nlohmann::json(nullptr) : nlohmann::json(list);
}

void put_targets(nlohmann::json& json, const Lora& lora) {
  const LoraConfig& config = lora.config;
  const bool as_given = config.match == TargetMatch::suffix || config.match == TargetMatch::regex;
  if (as_given && config.exclude.empty()) {
    json["target_modules"] =
        config.match == TargetMatch::regex ? nlohmann::json(config.targets.front()) : nlohmann::json(config.targets);
    json["exclude_modules"] = config.exclude_match == TargetMatch::regex && !config.exclude_modules.empty()
                                  ? nlohmann::json(config.exclude_modules.front())
                                  : list_or_null(config.exclude_modules);
    json["layers_pattern"] = list_or_null(config.layers_pattern);
    json["layers_to_transform"] =
        config.layers_to_transform.empty() ? nlohmann::json(nullptr) : nlohmann::json(config.layers_to_transform);
    return;
  }
  json["target_modules"] = layer_names(lora);
  for (const char* key : {"exclude_modules", "layers_pattern", "layers_to_transform"}) json[key] = nullptr;
}

nlohmann::json init_json(LoraInit init) {
  if (init == LoraInit::gaussian) return "gaussian";
  if (init == LoraInit::pissa) return "pissa";
  if (init == LoraInit::olora) return "olora";
  return init == LoraInit::kaiming;
}

const char* bias_json(BaseBias kind) {
  if (kind == BaseBias::all) return "all";
  return kind == BaseBias::lora_only ? "lora_only" : "none";
}

LoraInit init_of(const JsonView& json) {
  if (!json.has("init_lora_weights")) return LoraInit::kaiming;
  const nlohmann::json& value = json.at("init_lora_weights").raw();
  if (value.is_boolean()) return value.get<bool>() ? LoraInit::kaiming : LoraInit::both;
  if (value == "gaussian") return LoraInit::gaussian;
  if (value == "pissa") return LoraInit::pissa;
  if (value == "olora") return LoraInit::olora;
  // By orthogonal matrices, and by what layers saw of some data: the base stays as it is, and B A begins as nothing.
  if (value == "orthogonal" || value == "eva") return LoraInit::kaiming;
  // What others subtract from the base was drawn: the adapter is not for any base that is stored.
  throw RequestError(
      "{}: initialisation {} changes the base weights, which is not supported; save the adapter with "
      "path_initial_model_for_weight_conversion",
      json.at("init_lora_weights").where(), value.dump());
}

constexpr std::array<std::pair<const char*, std::int64_t AdaLoraConfig::*>, 6> kAdaLoraNumbers{
    {{"target_r", &AdaLoraConfig::target_r},
     {"init_r", &AdaLoraConfig::init_r},
     {"tinit", &AdaLoraConfig::tinit},
     {"tfinal", &AdaLoraConfig::tfinal},
     {"deltaT", &AdaLoraConfig::delta_t},
     {"total_step", &AdaLoraConfig::total_step}}};
constexpr std::array<std::pair<const char*, double AdaLoraConfig::*>, 3> kAdaLoraReals{
    {{"beta1", &AdaLoraConfig::beta1},
     {"beta2", &AdaLoraConfig::beta2},
     {"orth_reg_weight", &AdaLoraConfig::orth_reg_weight}}};

void put_adalora(nlohmann::json& json, const AdaLoraConfig& config) {
  json["peft_type"] = "ADALORA";
  for (const auto& [key, member] : kAdaLoraNumbers) json[key] = config.*member;
  for (const auto& [key, member] : kAdaLoraReals) json[key] = config.*member;
  for (const char* key : {"use_rslora", "use_dora"}) json.erase(key);
  json["rank_pattern"] = nullptr;
  for (const auto& [layer, triplets] : config.rank_pattern) {
    std::vector<bool> kept = triplets;  // PEFT takes one for every triplet that a layer begins with
    kept.resize(static_cast<std::size_t>(config.init_r), false);
    json["rank_pattern"][layer + std::string(kTriplet)] = kept;
  }
}

AdaLoraConfig adalora_of(const JsonView& json) {
  AdaLoraConfig config;
  for (const auto& [key, member] : kAdaLoraNumbers) config.*member = json.integer(key, config.*member);
  for (const auto& [key, member] : kAdaLoraReals) config.*member = json.real(key, config.*member);
  if (!json.has("rank_pattern")) return config;
  const JsonView pattern = json.at("rank_pattern");
  for (std::string key : pattern.keys()) {
    const nlohmann::json& kept = pattern.at(key).raw();
    const bool flags =
        kept.is_array() && std::all_of(kept.begin(), kept.end(), [](const auto& v) { return v.is_boolean(); });
    if (!flags || !drop_tail(key, kTriplet))
      throw RequestError("{}: a list of true and false for a layer's lora_E is expected", pattern.at(key).where());
    config.rank_pattern.emplace(key, kept.get<std::vector<bool>>());
  }
  return config;
}

void refuse_unsupported(const JsonView& json) {
  for (const char* key : kUnsupported) {
    if (!json.has(key)) continue;
    const nlohmann::json& value = json.at(key).raw();
    if (value != false && !value.empty()) throw RequestError("{} is not supported", json.at(key).where());
  }
}

BaseBias base_bias_of(const JsonView& json) {
  const std::string kind = json.text("bias", "none");
  if (kind == "all") return BaseBias::all;
  if (kind == "lora_only") return BaseBias::lora_only;
  if (kind == "none") return BaseBias::none;
  throw RequestError("{}: 'bias' {} is unknown; known are none, all and lora_only", json.where(), kind);
}

}  // namespace

std::string peft_file_name(std::string_view param_name) {
  std::string name = std::string(kPeftPrefix) + std::string(param_name);
  if (drop_tail(name, std::string(kBiased) + std::string(kAdapterName) + std::string(kBias)))
    return name + std::string(kBiased) + std::string(kBias);
  const bool adapter = drop_tail(name, std::string(kAdapterName) + std::string(kWeight));
  if (adapter && !name.ends_with(kMagnitude)) name += kWeight;
  if (!adapter) drop_tail(name, kAdapterName);
  return name;
}

std::string param_name_of_peft(std::string_view file_name) {
  std::string name(file_name);
  if (name.starts_with(kPeftPrefix)) name.erase(0, kPeftPrefix.size());
  std::string module = name;
  if (drop_tail(module, kBias)) {
    drop_tail(module, kAdapterName);
    return module.ends_with(kBiased) ? module + std::string(kAdapterName) + std::string(kBias) : "";
  }
  const bool weight = drop_tail(name, kWeight);
  drop_tail(name, kAdapterName);
  for (const char* tail : {".lora_embedding_A", ".lora_embedding_B"}) {
    if (name.ends_with(tail)) return name + std::string(kAdapterName);
  }
  const bool matrix = name.ends_with(".lora_A") || name.ends_with(".lora_B");
  if ((matrix && !weight) || name.ends_with(kTriplet)) return name + std::string(kAdapterName);
  if (!matrix && !name.ends_with(kMagnitude)) return "";
  return name + std::string(kAdapterName) + std::string(kWeight);
}

std::string peft_config_json(const Lora& lora, const std::string& base_model) {
  const PatternsJson patterns = patterns_json(lora);
  nlohmann::json json = {{"peft_type", "LORA"},
                         {"task_type", "CAUSAL_LM"},
                         {"base_model_name_or_path", base_model},
                         {"r", lora.config.rank},
                         {"lora_alpha", lora.config.alpha},
                         {"lora_dropout", lora.config.dropout},
                         {"use_rslora", lora.config.rslora},
                         {"use_dora", lora.config.dora},
                         {"rank_pattern", patterns.ranks},
                         {"alpha_pattern", patterns.alphas},
                         {"bias", bias_json(lora.config.base_bias)},
                         {"fan_in_fan_out", false},
                         {"inference_mode", true},
                         {"init_lora_weights", init_json(lora.config.init)},
                         {"modules_to_save", list_or_null(lora.config.modules_to_save)}};
  if (lora.config.bias) json["lora_bias"] = true;  // a key that PEFT has since 0.14
  put_targets(json, lora);
  if (lora.config.adalora) put_adalora(json, *lora.config.adalora);
  return json.dump(2) + "\n";
}

LoraConfig lora_config_from_json(const JsonView& json) {
  const std::string type = json.text("peft_type", "");
  if (type != "LORA" && type != "ADALORA") {
    throw RequestError("{}: peft_type is '{}', supported are LORA and ADALORA", json.where(), type);
  }
  refuse_unsupported(json);
  LoraConfig config;
  config.rank = json.integer("r");
  config.alpha = json.real("lora_alpha");
  config.dropout = json.real("lora_dropout", 0.0);
  config.rslora = json.boolean("use_rslora", false);
  config.dora = json.boolean("use_dora", false);
  config.bias = json.boolean("lora_bias", false);
  config.base_bias = base_bias_of(json);
  config.init = init_of(json);
  if (type == "ADALORA") {
    config.adalora = adalora_of(json);
    config.rank = config.adalora->init_r;
  } else if (json.has("rank_pattern")) {
    const JsonView ranks = json.at("rank_pattern");
    for (const std::string& key : ranks.keys()) config.rank_pattern.emplace_back(key, ranks.integer(key));
  }
  if (json.has("alpha_pattern")) {
    const JsonView alphas = json.at("alpha_pattern");
    for (const std::string& key : alphas.keys()) config.alpha_pattern.emplace_back(key, alphas.real(key));
  }
  if (json.has("modules_to_save")) config.modules_to_save = json.at("modules_to_save").texts();
  config.match = TargetMatch::exact;
  config.exclude.clear();
  config.targets.clear();
  return config;
}

}  // namespace tessera::adapt
