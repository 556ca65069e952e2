#pragma once
/// CLIP's vision transformer, transformers' names (`…vision_model.pre_layrnorm` is spelled so in every checkpoint).
///
/// Shapes: B images, P patches, H hidden.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tessera/nn/functional.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct ClipVisionConfig {
  std::int64_t hidden_size = 1024;
  std::int64_t intermediate_size = 4096;
  std::int64_t layers = 24;
  std::int64_t heads = 16;
  std::int64_t image_size = 224;
  std::int64_t patch_size = 14;
  double layer_norm_eps = 1e-5;
  nn::Activation activation = nn::Activation::quick_gelu;
  std::int64_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  /// A clip_vision_model config.json, or a clip one with `vision_config`. Throws RequestError naming the key.
  static ClipVisionConfig from_json(const nlohmann::json& json);
};

/// LLaVA's mm_vision_select_feature: the patches without or with the class token in front.
enum class SelectFeature : std::uint8_t { patch, cls_patch };
/// Throws RequestError for another name.
SelectFeature select_feature_from_name(const std::string& name);
/// hidden [B,1+P,H] to [B,P,H] or [B,1+P,H].
at::Tensor select_feature(const at::Tensor& hidden, SelectFeature feature);

class ClipLayer {
 public:
  ClipLayer(const nn::Scope& scope, const ClipVisionConfig& config);
  at::Tensor operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const;  ///< [B,1+P,H]

 private:
  std::int64_t heads_;
  nn::Activation activation_;
  nn::LayerNorm norm1_, norm2_;
  nn::Linear q_, k_, v_, out_, fc1_, fc2_;
};

class ClipVision {
 public:
  /// prefix: what stands before the names, e.g. "vision_model". run_layers: how many of the layers forward uses; the
  /// others and the last norm exist (they are in the files and in the count) in units marked idle. -1: all.
  ClipVision(nn::ModelLayout& layout, const ClipVisionConfig& config, const std::string& prefix,
             std::int64_t run_layers = -1);

  /// pixels f32 [B,3,S,S] to the hidden state after the last layer that runs, [B,1+P,H]. `trace` receives transformers'
  /// hidden_states 0…run_layers. Throws RequestError when the picture's size is not the tower's.
  at::Tensor forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                     nn::Tensors* trace = nullptr) const;
  /// The class token of the last hidden state after the last norm [B,H]. Needs all layers to run.
  at::Tensor pool(const at::Tensor& hidden, nn::UnitRunner& runner) const;

  const ClipVisionConfig& config() const { return config_; }
  /// How many layers hidden_states[select_layer] needs: -2 of 24 is 23. Throws RequestError when out of range.
  static std::int64_t layers_for(std::int64_t select_layer, std::int64_t layers);

 private:
  ClipVisionConfig config_;
  nn::UnitId embedding_unit_ = -1;
  nn::UnitId post_unit_ = -1;
  std::vector<nn::UnitId> layer_units_;
  nn::Param class_embedding_;
  nn::Conv2d patch_embedding_;
  nn::Embedding position_embedding_;
  nn::LayerNorm pre_norm_, post_norm_;
  std::vector<ClipLayer> layers_;
};

}  // namespace tessera::models
