#include "json_fields.hpp"
#include "tessera/models/llama.hpp"

namespace tessera::models {
namespace {

/// Rotary settings: `rope_theta` and `rope_scaling`, or release 5's `rope_parameters` with both in one.
nn::RopeConfig read_rope(const JsonFields& fields, std::int64_t head_dim) {
  nn::RopeConfig rope;
  rope.dim = head_dim;
  rope.theta = fields.number("rope_theta", 10000.0);
  const char* key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!fields.has(key)) return rope;
  const JsonFields scaling(fields.json().at(key), fields.where() + ": " + key);
  rope.theta = scaling.number("rope_theta", rope.theta);
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default") return rope;
  rope.factor = scaling.number("factor", std::nullopt);
  if (type == "linear") {
    rope.scaling = nn::RopeConfig::Scaling::linear;
  } else if (type == "llama3") {
    rope.scaling = nn::RopeConfig::Scaling::llama3;
    rope.low_freq_factor = scaling.number("low_freq_factor", std::nullopt);
    rope.high_freq_factor = scaling.number("high_freq_factor", std::nullopt);
    rope.original_max_positions = scaling.number("original_max_position_embeddings", std::nullopt);
  } else {
    throw RequestError("{}: rope_type '{}' is not supported; supported are default, linear, llama3", scaling.where(),
                       type);
  }
  return rope;
}

}  // namespace

LlamaConfig LlamaConfig::from_json(const nlohmann::json& json) {
  const JsonFields fields(json, "config.json");
  LlamaConfig config;
  config.vocab_size = fields.integer("vocab_size", std::nullopt);
  config.hidden_size = fields.integer("hidden_size", std::nullopt);
  config.intermediate_size = fields.integer("intermediate_size", std::nullopt);
  config.layers = fields.integer("num_hidden_layers", std::nullopt);
  config.heads = fields.integer("num_attention_heads", std::nullopt);
  config.kv_heads = fields.integer("num_key_value_heads", config.heads);
  if (!fields.has("head_dim"))
    require_divides("config.json", "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  config.head_dim = fields.integer("head_dim", config.hidden_size / config.heads);
  require_divides("config.json", "num_key_value_heads", config.kv_heads, "num_attention_heads", config.heads);
  require_divides("config.json", "2 of rotary halves:", 2, "head_dim", config.head_dim);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  config.initializer_range = fields.number("initializer_range", 0.02);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  config.attention_bias = fields.flag("attention_bias", false);
  if (fields.flag("mlp_bias", false)) throw RequestError("config.json: 'mlp_bias' true is not supported");
  config.activation = nn::activation_from_name(fields.text("hidden_act", "silu"));
  config.rope = read_rope(fields, config.head_dim);
  return config;
}

}  // namespace tessera::models
