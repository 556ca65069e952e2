#include <map>
#include <string>

#include "json_fields.hpp"
#include "tessera/models/llama.hpp"

namespace tessera::models {
namespace {

nn::RopeConfig::Scaling rope_scaling(const JsonFields& scaling) {
  using Scaling = nn::RopeConfig::Scaling;
  static const std::map<std::string, Scaling> known = {{"default", Scaling::none},
                                                       {"dynamic", Scaling::dynamic},
                                                       {"linear", Scaling::linear},
                                                       {"llama3", Scaling::llama3}};
  const char* key = scaling.has("rope_type") ? "rope_type" : "type";  // the older files' name
  const std::string type = scaling.text(key, "default");
  const auto found = known.find(type);
  if (found != known.end()) return found->second;
  std::string names;
  for (const auto& [name, unused] : known) names += (names.empty() ? "" : ", ") + name;
  throw RequestError("{}: {} '{}' is not supported; supported are {}", scaling.where(), key, type, names);
}

/// Settings of rotary embeddings that other families have.
void refuse_other_rope(const JsonFields& fields) {
  if (fields.number("partial_rotary_factor", 1.0) != 1.0)
    throw RequestError("{}: 'partial_rotary_factor' is {}; only 1 is supported", fields.where(),
                       fields.json().at("partial_rotary_factor").dump());
  for (const auto& [key, value] : fields.json().items()) {
    if (value.is_object() && key.ends_with("_attention"))
      throw RequestError("{}: '{}': settings for each type of layer are not supported", fields.where(), key);
  }
}

/// Rotary settings: `rope_theta` and `rope_scaling`, or release 5's `rope_parameters` with both in one;
/// the former counts where both are there, as in every release.
nn::RopeConfig read_rope(const JsonFields& fields, std::int64_t head_dim, std::optional<std::int64_t> max_positions) {
  nn::RopeConfig rope;
  rope.dim = head_dim;
  rope.theta = fields.number("rope_theta", 10000.0);
  refuse_other_rope(fields);
  const bool scaled = fields.has("rope_scaling") && !fields.json().at("rope_scaling").empty();
  const char* key = scaled ? "rope_scaling" : "rope_parameters";
  if (!fields.has(key)) return rope;
  const JsonFields scaling(fields.json().at(key), fields.where() + ": " + key);
  refuse_other_rope(scaling);
  rope.theta = scaling.number("rope_theta", rope.theta);
  rope.scaling = rope_scaling(scaling);
  if (rope.scaling == nn::RopeConfig::Scaling::none) return rope;
  rope.factor = scaling.number("factor", std::nullopt);
  if (rope.scaling == nn::RopeConfig::Scaling::dynamic) {
    rope.max_positions = static_cast<double>(fields.integer("max_position_embeddings", max_positions));
    if (head_dim < 4) throw RequestError("{}: rope_type dynamic needs heads wider than 2", scaling.where());
  } else if (rope.scaling == nn::RopeConfig::Scaling::llama3) {
    rope.low_freq_factor = scaling.number("low_freq_factor", std::nullopt);
    rope.high_freq_factor = scaling.number("high_freq_factor", std::nullopt);
    rope.original_max_positions = scaling.number("original_max_position_embeddings", std::nullopt);
  }
  return rope;
}

/// Defaults of transformers' LlamaConfig, MistralConfig, Qwen2Config.
struct ClassDefaults {
  std::int64_t vocab_size, hidden_size, intermediate_size, layers, heads;
  std::optional<std::int64_t> kv_heads;  ///< nothing: as many as heads
  std::int64_t max_positions;
};

ClassDefaults defaults_of(LlamaConfig::Family family) {
  switch (family) {
    case LlamaConfig::Family::llama:
      return {32000, 4096, 11008, 32, 32, std::nullopt, 2048};
    case LlamaConfig::Family::mistral:
      return {32000, 4096, 14336, 32, 32, 8, 131072};
    case LlamaConfig::Family::qwen2:
      return {151936, 4096, 22016, 32, 32, 32, 32768};
  }
  throw RunError("models: unknown family of language models");
}

/// Mistral has a window unless its config says null; Qwen2 has one only where use_sliding_window says so, and then from
/// layer max_window_layers on.
void read_window(LlamaConfig& config, const JsonFields& fields, LlamaConfig::Family family, bool class_defaults) {
  if (family == LlamaConfig::Family::mistral) {
    const bool absent = !fields.json().contains("sliding_window");
    config.window = absent && class_defaults ? 4096 : fields.integer("sliding_window", 0);
  }
  if (family == LlamaConfig::Family::qwen2 && fields.flag("use_sliding_window", false)) {
    config.window = fields.integer("sliding_window", 4096);
    config.first_windowed = fields.integer("max_window_layers", 28, 0);
  }
}

/// Qwen2's own list of which layers have a window, since 4.53; transformers heeds nothing else where it is there.
void check_layer_types(const LlamaConfig& config, const JsonFields& fields) {
  if (!fields.has("layer_types")) return;
  const auto& types = fields.json().at("layer_types");
  auto implied = nlohmann::json::array();
  for (std::int64_t i = 0; i < config.layers; ++i)
    implied.push_back(config.window > 0 && i >= config.first_windowed ? "sliding_attention" : "full_attention");
  if (types != implied) {
    throw RequestError("{}: 'layer_types' is {}, where use_sliding_window and max_window_layers make it {}",
                       fields.where(), types.dump(), implied.dump());
  }
}

void read_sizes(LlamaConfig& config, const JsonFields& fields, const ClassDefaults& defaults, bool class_defaults) {
  const auto size = [&](const char* key, std::int64_t fallback) {
    return fields.integer(key, class_defaults ? std::optional(fallback) : std::nullopt);
  };
  config.vocab_size = size("vocab_size", defaults.vocab_size);
  config.hidden_size = size("hidden_size", defaults.hidden_size);
  config.intermediate_size = size("intermediate_size", defaults.intermediate_size);
  config.layers = fields.layers("num_hidden_layers", class_defaults ? std::optional(defaults.layers) : std::nullopt);
  config.heads = size("num_attention_heads", defaults.heads);
  const bool absent = !fields.json().contains("num_key_value_heads");
  config.kv_heads = fields.integer("num_key_value_heads",
                                   absent && class_defaults && defaults.kv_heads ? *defaults.kv_heads : config.heads);
}

}  // namespace

LlamaConfig LlamaConfig::from_json(const nlohmann::json& json, Family family, const std::string& where,
                                   bool class_defaults) {
  const JsonFields fields(json, where);
  const ClassDefaults defaults = defaults_of(family);
  LlamaConfig config;
  read_sizes(config, fields, defaults, class_defaults);
  if (!fields.has("head_dim"))
    require_divides(where, "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  config.head_dim = fields.integer("head_dim", config.hidden_size / config.heads);
  require_divides(where, "num_key_value_heads", config.kv_heads, "num_attention_heads", config.heads);
  require_divides(where, "2 of rotary halves:", 2, "head_dim", config.head_dim);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  config.initializer_range = fields.number("initializer_range", 0.02);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  // Only LLaMA's attention asks its config: Qwen2's always has biases on query, key and value, Mistral's never.
  const bool llama_bias = family == Family::llama && fields.flag("attention_bias", false);
  config.qkv_bias = llama_bias || family == Family::qwen2;
  config.output_bias = llama_bias;
  config.mlp_bias = family == Family::llama && fields.flag("mlp_bias", false);
  config.activation = nn::activation_from_name(fields.text("hidden_act", "silu"));
  read_window(config, fields, family, class_defaults);
  if (family == Family::qwen2) check_layer_types(config, fields);
  config.rope =
      read_rope(fields, config.head_dim, class_defaults ? std::optional(defaults.max_positions) : std::nullopt);
  return config;
}

}  // namespace tessera::models
