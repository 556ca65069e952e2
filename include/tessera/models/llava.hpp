#pragma once
/// LLaVA: a language model whose text has image features in the places of its image placeholders. Original form
/// (haotian-liu/LLaVA llava/model/llava_arch.py: one -200 an image, rows grow) and transformers' (one placeholder id
/// for each feature, rows keep their length). Pictures come whole or in tiles (models/tiles.hpp).
///
/// Shapes: B rows, L text length, N images (or tiles of them) of S x S, P tokens an image, F positions of all pictures
/// in tiles, T length of the sequence the language model sees, D hidden, V vocabulary.
///
/// Units in the order of a step: the embedding, the tower, the projector, image_newline where the model has it, the
/// layers, norm and head. It does not depend on what is in a batch; B and N may be 0. Batches that bring the tower's
/// features do without its units: all batches of a run, or none.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/models/language_config.hpp"
#include "tessera/models/llava_batch.hpp"
#include "tessera/models/projector.hpp"
#include "tessera/models/tiles.hpp"
#include "tessera/models/vision_tower.hpp"
#include "tessera/nn/context.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct LlavaConfig {
  LanguageConfig language;
  VisionTowerConfig tower;
  std::string projector_type = "linear";  ///< mm_projector_type
  nn::Activation projector_activation = nn::Activation::gelu;
  bool projector_bias = true;
  std::int64_t image_token = -1;  ///< transformers' form: image_token_index; -1: none
  /// Original form: expanded rows are cut to this many positions (tokenizer_model_max_length); 0: they are not.
  std::int64_t max_length = 0;
  bool pad_left = false;            ///< original form: tokenizer_padding_side
  std::optional<TileConfig> tiles;  ///< how pictures come in tiles; absent: they come whole
  /// It has the vector model.image_newline (spatial_unpad), which is of use with tiles alone.
  bool image_newline = false;

  /// json: config.json with the language model's keys at the top and mm_…; tower: that of mm_vision_tower.
  static LlavaConfig from_original(const nlohmann::json& json, const nlohmann::json& tower);
  /// config.json with text_config and vision_config.
  static LlavaConfig from_transformers(const nlohmann::json& json);
};

/// What the language model sees.
struct LlavaSequence {
  at::Tensor embeddings;      ///< [B,T,D], zero where padded in the original form
  at::Tensor mask;            ///< bool [B,T]
  at::Tensor labels;          ///< i64 [B,T], -100 at image features and padding; undefined without labels
  at::Tensor image_features;  ///< after the projector: [N,P,D], of pictures in tiles [F,D]
};

struct LlavaOutputs {
  at::Tensor loss;    ///< fp32: the sum over target tokens divided by their number, or by the number given
  at::Tensor logits;  ///< [B,T,V] when asked for
  std::int64_t target_tokens = 0;
};

struct LlavaForwardOptions {
  std::optional<double> target_tokens;  ///< what the sum is divided by; absent: the batch's own number
  bool full_logits = false;             ///< logits at all positions instead of where labels are
  double label_smoothing = 0;           ///< of the targets (nn/weighted.hpp)
  /// NEFTune (arXiv:2310.05914): while training, a row of n positions has noise uniform in +-noise_alpha / sqrt(n D)
  /// added to the embeddings of its text. It follows from seed, step and sample, as dropout does.
  double noise_alpha = 0;
};

class LlavaModel {
 public:
  /// Adds LLaVA's units to the layout, shapes alone. The model holds handles to the layout's weights, not the layout.
  LlavaModel(nn::ModelLayout& layout, LlavaConfig config);

  /// Embedding, with LlavaForwardOptions' noise, tower and projector. Collective when the runner is. Throws
  /// RequestError before any unit runs when the batch contradicts itself: shapes, ids outside the vocabulary, another
  /// number of placeholders than of images or features (the text names both).
  LlavaSequence embed(const LlavaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                      double noise_alpha = 0) const;
  /// The whole step: needs labels.
  LlavaOutputs forward(const LlavaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                       const LlavaForwardOptions& options = {}) const;

  const LanguageModel& language() const { return *language_; }
  const LlavaConfig& config() const { return config_; }

 private:
  LlavaConfig config_;
  std::unique_ptr<LanguageModel> language_;
  std::unique_ptr<VisionTower> tower_;
  std::unique_ptr<Projector> projector_;
  nn::Param newline_;  ///< null: none

  at::Tensor newline(nn::UnitRunner& runner) const;
};

}  // namespace tessera::models
