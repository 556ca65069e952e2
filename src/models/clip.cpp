#include "tessera/models/clip.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <fmt/ranges.h>

#include <cmath>

#include "json_fields.hpp"

namespace tessera::models {

ClipVisionConfig ClipVisionConfig::from_json(const nlohmann::json& json) {
  const bool nested = json.is_object() && json.contains("vision_config");
  const JsonFields fields(nested ? json.at("vision_config") : json,
                          nested ? "config.json: vision_config" : "config.json");
  const std::string type = fields.text("model_type", "clip_vision_model");
  if (type != "clip_vision_model" && type != "clip")
    throw RequestError("{}: model_type '{}' is not supported; supported vision towers are CLIP's and FastViTHD",
                       fields.where(), type);
  ClipVisionConfig config;
  config.hidden_size = fields.integer("hidden_size", 768);
  config.intermediate_size = fields.integer("intermediate_size", 3072);
  config.layers = fields.layers("num_hidden_layers", 12);
  config.heads = fields.integer("num_attention_heads", 12);
  config.image_size = fields.integer("image_size", 224);
  config.patch_size = fields.integer("patch_size", 32);
  config.layer_norm_eps = fields.number("layer_norm_eps", 1e-5);
  config.activation = nn::activation_from_name(fields.text("hidden_act", "quick_gelu"));
  if (fields.integer("num_channels", 3) != 3)
    throw RequestError("{}: only 3 num_channels are supported", fields.where());
  require_divides(fields.where(), "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  return config;
}

ClipLayer::ClipLayer(const nn::Scope& scope, const ClipVisionConfig& config)
    : heads_(config.heads), activation_(config.activation) {
  const std::int64_t d = config.hidden_size;
  // transformers' initialisation of CLIP.
  const double fan = std::pow(static_cast<double>(d), -0.5);
  const nn::Init in = nn::Init::normal(fan * std::pow(2.0 * static_cast<double>(config.layers), -0.5));
  const nn::Init out = nn::Init::normal(fan);
  const nn::Init fc = nn::Init::normal(std::pow(2.0 * static_cast<double>(d), -0.5));
  const nn::Scope attn = scope.child("self_attn");
  norm1_ = nn::LayerNorm(scope, "layer_norm1", d, config.layer_norm_eps);
  q_ = nn::Linear(attn, "q_proj", d, d, true, in);
  k_ = nn::Linear(attn, "k_proj", d, d, true, in);
  v_ = nn::Linear(attn, "v_proj", d, d, true, in);
  out_ = nn::Linear(attn, "out_proj", d, d, true, out);
  norm2_ = nn::LayerNorm(scope, "layer_norm2", d, config.layer_norm_eps);
  fc1_ = nn::Linear(scope.child("mlp"), "fc1", d, config.intermediate_size, true, fc);
  fc2_ = nn::Linear(scope.child("mlp"), "fc2", config.intermediate_size, d, true, in);
}

at::Tensor ClipLayer::operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const {
  const at::Tensor normed = norm1_(x);
  const at::Tensor q = nn::split_heads(q_(normed, ctx), heads_);
  const at::Tensor k = nn::split_heads(k_(normed, ctx), heads_);
  const at::Tensor v = nn::split_heads(v_(normed, ctx), heads_);
  const at::Tensor h = x.add(out_(nn::merge_heads(nn::attention(q, k, v, std::nullopt, false)), ctx));
  return h.add(fc2_(nn::activate(activation_, fc1_(norm2_(h), ctx)), ctx));
}

ClipVision::ClipVision(nn::ModelLayout& layout, const ClipVisionConfig& config, const std::string& prefix,
                       std::int64_t run_layers)
    : config_(config) {
  const std::int64_t used = run_layers < 0 ? config.layers : run_layers;
  const nn::Init init = nn::Init::normal(0.02);
  embedding_unit_ = layout.add_unit(prefix + ".embeddings");
  const nn::Scope model(layout, embedding_unit_, prefix);
  const nn::Scope embeddings = model.child("embeddings");
  class_embedding_ = embeddings.param("class_embedding", {config.hidden_size},
                                      nn::Init::normal(std::pow(static_cast<double>(config.hidden_size), -0.5)));
  patch_embedding_ = nn::Conv2d(embeddings, "patch_embedding",
                                {.in = 3,
                                 .out = config.hidden_size,
                                 .kernel = config.patch_size,
                                 .stride = config.patch_size,
                                 .padding = 0,
                                 .bias = false},
                                init);
  position_embedding_ = nn::Embedding(embeddings, "position_embedding", config.patches() + 1, config.hidden_size, init);
  pre_norm_ = nn::LayerNorm(model, "pre_layrnorm", config.hidden_size, config.layer_norm_eps);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string name = prefix + ".encoder.layers." + std::to_string(i);
    const nn::UnitId unit = layout.add_unit(name);
    ClipLayer layer(nn::Scope(layout, unit, name), config);
    if (i >= used) {
      layout.mark_idle(unit);
      continue;
    }
    layer_units_.push_back(unit);
    layers_.push_back(std::move(layer));
  }
  post_unit_ = layout.add_unit(prefix + ".post_layernorm");
  if (used < config.layers) layout.mark_idle(post_unit_);
  post_norm_ =
      nn::LayerNorm(nn::Scope(layout, post_unit_, prefix), "post_layernorm", config.hidden_size, config.layer_norm_eps);
}

std::int64_t ClipVision::layers_for(std::int64_t select_layer, std::int64_t layers) {
  const std::int64_t index = select_layer < 0 ? layers + 1 + select_layer : select_layer;
  if (index < 0 || index > layers) {
    throw RequestError("mm_vision_select_layer {} is outside the {} hidden states of the vision tower", select_layer,
                       layers + 1);
  }
  return index;
}

SelectFeature select_feature_from_name(const std::string& name) {
  if (name == "patch") return SelectFeature::patch;
  if (name == "cls_patch") return SelectFeature::cls_patch;
  throw RequestError("mm_vision_select_feature '{}' is not known; known are patch, cls_patch", name);
}

at::Tensor select_feature(const at::Tensor& hidden, SelectFeature feature) {
  return feature == SelectFeature::patch ? hidden.narrow(1, 1, hidden.size(1) - 1) : hidden;
}

at::Tensor ClipVision::forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                               nn::Tensors* trace) const {
  if (pixels.dim() != 4 || pixels.size(1) != 3 || pixels.size(2) != config_.image_size ||
      pixels.size(3) != config_.image_size) {
    throw RequestError(
        "CLIP takes pictures [B,3,{0},{0}], not {1}: its positions are not interpolated; resize or crop to {0}, or "
        "take "
        "a tower of that size",
        config_.image_size, fmt::join(pixels.sizes(), "x"));
  }
  at::Tensor x =
      runner
          .run(embedding_unit_, {pixels},
               [this, ctx](const nn::Tensors& in) {
                 const at::Tensor places = at::arange(config_.patches() + 1, in.at(0).options().dtype(at::kLong));
                 const at::Tensor& kernel = patch_embedding_.weight()->value();
                 const at::Tensor patches =
                     patch_embedding_(in.at(0).to(kernel.scalar_type()), ctx).flatten(2).transpose(1, 2);
                 const at::Tensor classes = class_embedding_->value().expand({patches.size(0), 1, config_.hidden_size});
                 return nn::Tensors{pre_norm_(at::cat({classes, patches}, 1).add(position_embedding_(places)))};
               })
          .at(0);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (trace != nullptr) trace->push_back(x);
    const ClipLayer& layer = layers_[i];
    x = runner
            .run(layer_units_[i], {x},
                 [&layer, ctx](const nn::Tensors& in) { return nn::Tensors{layer(in.at(0), ctx)}; })
            .at(0);
  }
  if (trace != nullptr) trace->push_back(x);
  return x;
}

at::Tensor ClipVision::pool(const at::Tensor& hidden, nn::UnitRunner& runner) const {
  return runner
      .run(post_unit_, {hidden},
           [this](const nn::Tensors& in) { return nn::Tensors{post_norm_(in.at(0).select(1, 0))}; })
      .at(0);
}

}  // namespace tessera::models
