#include <array>

#include "json_fields.hpp"
#include "tessera/models/sam.hpp"

namespace tessera::models {
namespace {

void validate(const SamConfig& config, const std::string& where) {
  require_divides(where, "patch_size", config.patch_size, "image_size", config.image_size);
  if (!(config.mlp_ratio > 0.0 && config.mlp_ratio <= 1024.0))
    throw RequestError("{}: mlp_ratio {} is not between 0 and 1024", where, config.mlp_ratio);
  require_divides(where, "num_heads", config.num_heads, "embed_dim", config.embed_dim);
  require_divides(where, "2 * decoder_num_heads", 2 * config.decoder_num_heads, "prompt_embed_dim",
                  config.prompt_embed_dim);
  require_divides(where, "8 (up-scaling channels)", 8, "prompt_embed_dim", config.prompt_embed_dim);
  require_divides(where, "4 (down-scaling channels)", 4, "mask_in_chans", config.mask_in_chans);
}

struct Variant {
  std::string_view name;
  std::int64_t embed_dim, depth, num_heads;
  std::array<std::int64_t, 4> global;
};
// Source: segment_anything build_sam.py.
constexpr std::array kVariants{Variant{"vit_b", 768, 12, 12, {2, 5, 8, 11}},
                               Variant{"vit_l", 1024, 24, 16, {5, 11, 17, 23}},
                               Variant{"vit_h", 1280, 32, 16, {7, 15, 23, 31}}};

SamConfig variant_config(const std::string& name, const std::string& where) {
  for (const Variant& variant : kVariants) {
    if (variant.name != name) continue;
    SamConfig config;
    config.embed_dim = variant.embed_dim;
    config.depth = variant.depth;
    config.num_heads = variant.num_heads;
    config.global_attn_indexes.assign(variant.global.begin(), variant.global.end());
    return config;
  }
  throw RequestError("{}: 'variant' is '{}'; known are vit_b, vit_l, vit_h", where, name);
}

/// What this encoder and decoder are built for; other values would be computed wrongly.
void require_standard(const JsonFields& vision, const JsonFields& prompt, const JsonFields& decoder) {
  const auto text = [](const JsonFields& fields, const char* key, const char* wanted) {
    const std::string found = fields.text(key, wanted);
    if (found != wanted)
      throw RequestError("{}: '{}' is '{}'; only '{}' is supported", fields.where(), key, found, wanted);
  };
  const auto integer = [](const JsonFields& fields, const char* key, std::int64_t wanted) {
    const std::int64_t found = fields.integer(key, wanted);
    if (found != wanted) throw RequestError("{}: '{}' is {}; only {} is supported", fields.where(), key, found, wanted);
  };
  text(vision, "hidden_act", "gelu");
  text(prompt, "hidden_act", "gelu");
  text(decoder, "hidden_act", "relu");
  integer(vision, "num_channels", 3);
  integer(prompt, "num_point_embeddings", 4);
  integer(decoder, "attention_downsample_rate", 2);
  const std::int64_t width = vision.integer("output_channels", 256);
  integer(prompt, "hidden_size", width);
  integer(decoder, "hidden_size", width);
  if (vision.number("layer_norm_eps", 1e-6) != 1e-6)
    throw RequestError("{}: 'layer_norm_eps' other than 1e-06 is not supported", vision.where());
}

}  // namespace

SamConfig SamConfig::from_json(const nlohmann::json& json) {
  const JsonFields fields(json, "config.json: sam_config");
  SamConfig c = variant_config(fields.text("variant", "vit_h"), fields.where());
  c.image_size = fields.integer("image_size", c.image_size);
  c.patch_size = fields.integer("patch_size", c.patch_size);
  c.embed_dim = fields.integer("embed_dim", c.embed_dim);
  c.depth = fields.layers("depth", c.depth);
  c.num_heads = fields.integer("num_heads", c.num_heads);
  c.mlp_ratio = fields.number("mlp_ratio", c.mlp_ratio);
  c.global_attn_indexes = fields.integers("global_attn_indexes", c.global_attn_indexes);
  c.window_size = fields.integer("window_size", c.window_size, 0);
  c.prompt_embed_dim = fields.integer("prompt_embed_dim", c.prompt_embed_dim);
  c.mask_in_chans = fields.integer("mask_in_chans", c.mask_in_chans);
  c.decoder_depth = fields.layers("decoder_depth", c.decoder_depth);
  c.decoder_mlp_dim = fields.integer("decoder_mlp_dim", c.decoder_mlp_dim);
  c.decoder_num_heads = fields.integer("decoder_num_heads", c.decoder_num_heads);
  c.num_multimask_outputs = fields.layers("num_multimask_outputs", c.num_multimask_outputs);
  c.iou_head_depth = fields.layers("iou_head_depth", c.iou_head_depth);
  c.iou_head_hidden_dim = fields.integer("iou_head_hidden_dim", c.iou_head_hidden_dim);
  c.norm_eps = fields.number("norm_eps", c.norm_eps);
  c.qkv_bias = fields.flag("qkv_bias", c.qkv_bias);
  c.use_abs_pos = fields.flag("use_abs_pos", c.use_abs_pos);
  c.use_rel_pos = fields.flag("use_rel_pos", c.use_rel_pos);
  validate(c, fields.where());
  return c;
}

SamConfig SamConfig::from_transformers(const nlohmann::json& json) {
  const JsonFields root(json, "config.json");
  const auto part = [&](const char* key) { return root.has(key) ? json.at(key) : nlohmann::json::object(); };
  const nlohmann::json vision_json = part("vision_config");
  const nlohmann::json prompt_json = part("prompt_encoder_config");
  const nlohmann::json decoder_json = part("mask_decoder_config");
  const JsonFields vision(vision_json, "config.json: vision_config");
  const JsonFields prompt(prompt_json, "config.json: prompt_encoder_config");
  const JsonFields decoder(decoder_json, "config.json: mask_decoder_config");
  require_standard(vision, prompt, decoder);
  SamConfig c;  // the fallbacks are transformers' own defaults (ViT-B)
  c.image_size = vision.integer("image_size", 1024);
  c.patch_size = vision.integer("patch_size", 16);
  c.embed_dim = vision.integer("hidden_size", 768);
  c.depth = vision.layers("num_hidden_layers", 12);
  c.num_heads = vision.integer("num_attention_heads", 12);
  c.mlp_ratio = vision.number("mlp_ratio", 4.0);
  if (vision.has("mlp_dim"))
    c.mlp_ratio = static_cast<double>(vision.integer("mlp_dim", std::nullopt)) / static_cast<double>(c.embed_dim);
  c.global_attn_indexes = vision.integers("global_attn_indexes", {2, 5, 8, 11});
  c.window_size = vision.integer("window_size", 14, 0);
  c.prompt_embed_dim = vision.integer("output_channels", 256);
  c.mask_in_chans = prompt.integer("mask_input_channels", 16);
  c.decoder_depth = decoder.layers("num_hidden_layers", 2);
  c.decoder_mlp_dim = decoder.integer("mlp_dim", 2048);
  c.decoder_num_heads = decoder.integer("num_attention_heads", 8);
  c.num_multimask_outputs = decoder.layers("num_multimask_outputs", 3);
  c.iou_head_depth = decoder.layers("iou_head_depth", 3);
  c.iou_head_hidden_dim = decoder.integer("iou_head_hidden_dim", 256);
  c.norm_eps = decoder.number("layer_norm_eps", 1e-6);
  c.qkv_bias = vision.flag("qkv_bias", true);
  c.use_abs_pos = vision.flag("use_abs_pos", true);
  c.use_rel_pos = vision.flag("use_rel_pos", true);
  validate(c, "config.json");
  return c;
}

}  // namespace tessera::models
