#include "tessera/models/llava.hpp"

#include <ATen/ops/clone.h>

#include <cmath>

#include "json_fields.hpp"
#include "llava_sequence.hpp"
#include "position_keys.hpp"
#include "tessera/nn/noise.hpp"

namespace tessera::models {
namespace {

std::int64_t signed_integer(const nlohmann::json& value, const std::string& what) {
  if (!value.is_number_integer())
    throw RequestError("config.json: '{}' is {}, expected an integer", what, value.dump());
  return value.get<std::int64_t>();
}

/// One layer or a list of them, counted from the end when negative.
std::vector<std::int64_t> read_layers(const JsonFields& fields, const char* key) {
  if (!fields.has(key)) return {-2};
  const auto& value = fields.json().at(key);
  if (!value.is_array()) return {signed_integer(value, key)};
  std::vector<std::int64_t> layers;
  for (const auto& layer : value) layers.push_back(signed_integer(layer, key));
  return layers;
}

bool keeps_class_token(const JsonFields& fields, const char* key, const char* drops, const char* keeps) {
  const std::string feature = fields.text(key, drops);
  if (feature != drops && feature != keeps)
    throw RequestError("{}: {} '{}' is not known; known are {}, {}", fields.where(), key, feature, drops, keeps);
  return feature == keeps;
}

/// What a vision_config is when it is absent: LlavaConfig's own, CLIP ViT-L/14 at 336 px.
VisionTowerConfig read_vision(const JsonFields& fields) {
  VisionTowerConfig tower;
  if (!fields.has("vision_config")) {
    tower.clip.image_size = 336;
    return tower;
  }
  const JsonFields vision(fields.json().at("vision_config"), fields.where() + ": vision_config");
  const std::string type = vision.text("model_type", "clip_vision_model");
  if (type != "clip_vision_model")
    throw RequestError("{}: model_type '{}' is not supported; supported is clip_vision_model", vision.where(), type);
  tower.clip = ClipVisionConfig::from_json(fields.json());
  return tower;
}

/// FastVlmConfig's: timm's FastViT, folded; its only layer and strategy.
VisionTowerConfig read_fast_vlm_vision(const JsonFields& fields) {
  nlohmann::json vision{{"architecture", "fastvit_mci3"}, {"model_args", {{"inference_mode", true}}}};
  if (fields.has("vision_config")) vision = fields.json().at("vision_config");
  if (!is_fastvit_config(vision))
    throw RequestError("{}: vision_config {} is not supported; supported are timm's fastvit_mci3 and fastvit_mci4",
                       fields.where(), vision.dump());
  VisionTowerConfig tower;
  tower.fastvit = FastVitConfig::from_json(vision);
  tower.select_layers = {-1};
  if (fields.has("vision_feature_layer") && read_layers(fields, "vision_feature_layer") != tower.select_layers)
    throw RequestError("{}: vision_feature_layer is not -1, the only one a FastViT has", fields.where());
  if (fields.text("vision_feature_select_strategy", "full") != "full")
    throw RequestError("{}: vision_feature_select_strategy is not 'full'; a FastViT has no class token",
                       fields.where());
  return tower;
}

/// FastVlmConfig's default, Qwen2 7B with rows for the image tokens.
nlohmann::json fast_vlm_text(const JsonFields& fields) {
  nlohmann::json text{{"hidden_size", 3584},       {"vocab_size", 152128},     {"intermediate_size", 18944},
                      {"num_attention_heads", 28}, {"num_key_value_heads", 4}, {"num_hidden_layers", 28}};
  if (fields.has("text_config")) text = fields.json().at("text_config");
  if (text.is_object() && !text.contains("model_type")) text["model_type"] = "qwen2";
  return text;
}

std::unique_ptr<LanguageModel> with_embedding(nn::ModelLayout& layout, const LanguageConfig& config) {
  auto model = make_language_model(config);
  model->add_embedding(layout);
  return model;
}

/// Settings of the original's kin that change what becomes of a picture.
void refuse_other_features(const JsonFields& fields) {
  if (fields.flag("s2", false))
    throw RequestError("{}: 's2' true: features of several sizes are not supported", fields.where());
  constexpr const char* kResampler = "mm_resampler_type";
  if (fields.has(kResampler))
    throw RequestError("{}: '{}' is {}; only null is supported", fields.where(), kResampler,
                       fields.json().at(kResampler).dump());
}

nn::Activation read_projector_activation(const JsonFields& fields) {
  constexpr const char* kKey = "projector_hidden_act";
  const std::string name = fields.text(kKey, "gelu");
  try {
    return nn::activation_from_name(name);
  } catch (const RequestError&) {
    throw RequestError("{}: {} '{}' is not known", fields.where(), kKey, name);
  }
}

}  // namespace

LlavaConfig LlavaConfig::from_original(const nlohmann::json& json, const nlohmann::json& tower) {
  const JsonFields fields(json, "config.json");
  refuse_other_features(fields);
  LlavaConfig config;
  config.language = LanguageConfig::from_json(json);
  if (is_fastvit_config(tower)) {  // whatever is to be selected: there is nothing to choose
    config.tower.fastvit = FastVitConfig::from_json(tower);
  } else {
    config.tower.clip = ClipVisionConfig::from_json(tower);
    config.tower.select_layers = read_layers(fields, "mm_vision_select_layer");
    config.tower.class_token = keeps_class_token(fields, "mm_vision_select_feature", "patch", "cls_patch");
  }
  config.projector_type = fields.text("mm_projector_type", "linear");
  config.max_length = fields.integer("tokenizer_model_max_length", 0);
  const std::string side = fields.text("tokenizer_padding_side", "right");
  if (side != "left" && side != "right")
    throw RequestError("config.json: tokenizer_padding_side '{}' is neither left nor right", side);
  config.pad_left = side == "left";
  // A FastViT's width may be known only once its weights were looked at.
  if (!config.tower.fastvit) config.tower.require_width(json);
  config.tiles = TileConfig::from_original(json, config.tower);
  config.image_newline = fields.text("mm_patch_merge_type", "flat").find("unpad") != std::string::npos;
  return config;
}

LlavaConfig LlavaConfig::from_transformers(const nlohmann::json& json) {
  const JsonFields fields(json, "config.json");
  LlavaConfig config;
  const bool fast_vlm = fields.text("model_type", "llava") == "fast_vlm";
  nlohmann::json text = nlohmann::json::object();
  if (fast_vlm) {
    text = fast_vlm_text(fields);
    config.tower = read_fast_vlm_vision(fields);
  } else {
    if (fields.has("text_config")) text = json.at("text_config");
    config.tower = read_vision(fields);
    config.tower.select_layers = read_layers(fields, "vision_feature_layer");
    config.tower.class_token = keeps_class_token(fields, "vision_feature_select_strategy", "default", "full");
  }
  config.language = LanguageConfig::from_json(text, "config.json: text_config", true);
  config.projector_type = "mlp2x_gelu";
  config.projector_activation = read_projector_activation(fields);
  config.projector_bias = fields.flag("multimodal_projector_bias", true);
  config.image_token = fields.integer(fields.has("image_token_id") ? "image_token_id" : "image_token_index",
                                      fast_vlm ? 151646 : 32000, 0);
  config.image_newline = fields.text("model_type", "llava") == "llava_next";
  if (config.image_newline) config.tiles = TileConfig::from_transformers(json, config.tower);
  return config;
}

LlavaModel::LlavaModel(nn::ModelLayout& layout, LlavaConfig config)
    : config_(std::move(config)), language_(with_embedding(layout, config_.language)) {
  // The order of these lines is the order of the units.
  const std::string base = config_.language.base();
  tower_ = make_vision_tower(layout, config_.tower, base + ".vision_tower.vision_tower");
  projector_ =
      std::make_unique<Projector>(layout, base + ".mm_projector", config_.projector_type, config_.tower.width(),
                                  config_.language.hidden_size(), config_.projector_activation, config_.projector_bias);
  if (config_.image_newline) {
    const nn::UnitId unit = layout.add_unit(base + ".image_newline");
    const std::int64_t width = config_.language.hidden_size();
    const double deviation = 1.0 / std::sqrt(static_cast<double>(width));
    newline_ = layout.add(unit, base + ".image_newline", {width}, nn::Init::normal(deviation));
    if (!config_.tiles) layout.mark_idle(unit);
  }
  language_->add_decoder(layout);
}

at::Tensor LlavaModel::newline(nn::UnitRunner& runner) const {
  if (!newline_) return {};
  // A copy: the weight itself is gone once its unit has run.
  return runner.run(newline_->unit, {}, [this](const nn::Tensors&) { return nn::Tensors{newline_->value().clone()}; })
      .at(0);
}

LlavaSequence LlavaModel::embed(const LlavaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                                double noise_alpha) const {
  const LlavaPlan plan = plan_llava(batch, config_);
  nn::ForwardContext image_ctx = ctx;  // the tower sees images, not rows
  image_ctx.sample_keys = plan.image_keys;
  LlavaSequence sequence;
  const at::Tensor text = nn::with_embedding_noise(language_->embed(plan.ids, runner), plan.mask.sum({1}), noise_alpha,
                                                   "embed_tokens", ctx);
  const at::Tensor features =
      batch.image_features.defined() ? batch.image_features : tower_->features(batch.images, runner, image_ctx);
  sequence.image_features = projector_->forward(features, runner, image_ctx);
  if (config_.tiles)
    sequence.image_features = merge_tiles(*config_.tiles, batch.pictures, sequence.image_features, newline(runner));
  sequence.embeddings = place(plan, text, sequence.image_features);
  sequence.mask = plan.mask;
  sequence.labels = plan.labels;
  return sequence;
}

LlavaOutputs LlavaModel::forward(const LlavaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                                 const LlavaForwardOptions& options) const {
  if (!batch.labels.defined()) throw RequestError("LLaVA batch: a loss needs labels");
  nn::ForwardContext row_ctx = ctx;
  row_ctx.sample_keys = batch.sample_keys;
  const LlavaSequence sequence = embed(batch, runner, row_ctx, options.noise_alpha);
  const NextTokenTargets found = next_token_targets(sequence.labels);
  const NextTokenTargets scored = found.on(sequence.embeddings.device());
  const bool full = options.full_logits;
  DecodeOptions decoding;
  if (!full) decoding.rows = scored.positions;
  const at::Tensor hidden = language_->decode(sequence.embeddings, sequence.mask, runner, row_ctx, decoding);
  const LanguageModel& language = *language_;
  const double smoothing = options.label_smoothing;
  const auto head_ctx = keyed_by_position(row_ctx, found.positions, sequence.mask.size(1));
  const nn::Tensors out = runner.run(language.head_unit(), {hidden}, [=, &language](const nn::Tensors& in) {
    if (!full)
      return nn::Tensors{language.head_loss(language.final_norm(in.at(0)), scored.targets, head_ctx, smoothing)};
    const at::Tensor logits = language.head(language.final_norm(in.at(0)), row_ctx);
    const at::Tensor rows = logits.reshape({-1, logits.size(2)}).index_select(0, scored.positions);
    return nn::Tensors{cross_entropy_sum(rows, scored.targets, smoothing), logits};
  });
  LlavaOutputs result;
  result.target_tokens = scored.targets.numel();
  const double count = options.target_tokens.value_or(static_cast<double>(result.target_tokens));
  result.loss = out.at(0).mul(count > 0 ? 1.0 / count : 0.0);
  if (full) result.logits = out.at(1);
  return result;
}

}  // namespace tessera::models
